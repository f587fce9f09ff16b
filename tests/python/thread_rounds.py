"""Threads that share models and inputs on mps get the bits of one thread, round after round.

Each thread runs every workload in each round, or the first few (`--each`), beginning at another one than its
neighbours, and compares the result with that of one thread alone. No op may fall back to the CPU. Prints a line a
workload and "ok" at the end.

    RIVULET_ADAPTER=nvidia python tests/python/thread_rounds.py --threads 31 --rounds 30
"""

from __future__ import annotations

import argparse
import sys
import threading
import time

import rivulet
import torch
from rivulet.selftest.workloads import workloads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=31)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--each", type=int, default=99, help="workloads that a thread runs a round")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    args = parser.parse_args()
    table = workloads(getattr(torch, args.dtype))
    names = list(table)
    each = min(args.each, len(names))
    alone: dict[str, list[torch.Tensor]] = {}
    different = {name: 0 for name in names}
    compared = {name: 0 for name in names}
    failures: list[BaseException] = []
    lock, start = threading.Lock(), threading.Barrier(args.threads)

    def results(name: str) -> list[torch.Tensor]:
        with torch.no_grad():
            return [result.cpu() for result in table[name]()]

    def reference() -> None:
        alone.update((name, results(name)) for name in names)

    def work(index: int) -> None:
        try:
            start.wait()
            for round_ in range(args.rounds):
                for step in range(each):
                    name = names[(index + round_ + step) % len(names)]
                    right = all(map(torch.equal, results(name), alone[name]))
                    with lock:
                        compared[name] += 1
                        different[name] += not right
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    def run(threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    rivulet.reset_fallback_counts()
    begun = time.monotonic()
    run([threading.Thread(target=reference)])
    assert all(result.isfinite().all() for values in alone.values() for result in values)
    run([threading.Thread(target=work, args=(index,)) for index in range(args.threads)])
    if failures:
        raise failures[0]
    print(f"{rivulet.adapter().name}, {args.dtype}: {args.threads} threads, {args.rounds} rounds of {each} workloads")
    for name in names:
        print(f"{name:<40}{compared[name]:>6} compared{different[name]:>6} different")
    print(f"fallbacks: {rivulet.fallback_counts()}, {time.monotonic() - begun:.1f} s")
    whole = sum(compared.values()) == args.threads * args.rounds * each
    ok = whole and all(compared.values()) and not any(different.values()) and not rivulet.fallback_counts()
    print("ok" if ok else "wrong")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
