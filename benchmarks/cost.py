"""What the mps device costs beside PyTorch's CPU tensors on the same machine, as ratios taken in one run.

Both sides are measured in turn, round by round, and the figure is the median of the rounds' ratios. Nothing fails on
a figure: a limit is printed beside each.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "demo"))
import torch  # noqa: E402
from embedding import batches_of, embed, load, sentences  # noqa: E402
from record import calls_for, machine, median_ratio, paired, timed, write  # noqa: E402

Body = Callable[[], object]


def measure(name: str, what: str, limit: float, best: str, samples: dict[str, list[float]], ratio: float) -> dict[str, Any]:
    """One row: `best` says whether the ratio should stay under ("at most") or over ("at least") the limit."""
    met = ratio <= limit if best == "at most" else ratio >= limit
    print(f"{what:<58}{ratio:>7.3f}   {best} {limit:<5} {'yes' if met else 'NO'}", flush=True)
    return {"name": name, "what": what, "ratio": ratio, best: limit, "met": met, "samples": samples}


def single(name: str, what: str, limit: float, cpu: Body, mps: Body, rounds: int, block: float) -> dict[str, Any]:
    """Time of one call on one thread, mps to CPU."""
    calls = calls_for(cpu, block)
    calls_for(mps, block)
    cpus, others = paired(lambda: timed(cpu, calls), lambda: timed(mps, calls), rounds)
    ratio = median_ratio(others, cpus)
    return measure(name, what, limit, "at most", {"cpu_seconds": cpus, "mps_seconds": others, "calls": [calls]}, ratio)


class Crew:
    """Threads that stay: each round all run the same body at once, and the round ends with the last of them."""

    def __init__(self, count: int) -> None:
        self.gate = threading.Barrier(count + 1)
        self.body: Body | None = None
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while True:
            self.gate.wait()
            body = self.body
            if body is None:
                return
            try:
                body()
            except BaseException as error:  # noqa: BLE001 - raised again by run()
                self.errors.append(error)
            self.gate.wait()

    def run(self, body: Body) -> float:
        """Seconds from the start until the last thread is done."""
        self.body = body
        start = time.perf_counter()
        self.gate.wait()
        self.gate.wait()
        seconds = time.perf_counter() - start
        if self.errors:
            raise self.errors[0]
        return seconds

    def close(self) -> None:
        self.body = None
        self.gate.wait()
        for thread in self.threads:
            thread.join()


def ops(rounds: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    a = torch.randn(16)
    b = a.to("mps")
    linear = torch.nn.Linear(256, 128)
    moved = copy.deepcopy(linear).to("mps")
    x = torch.randn(32, 256)
    y = x.to("mps")
    with torch.no_grad():
        return [
            single("add_16", "a + a, 16 elements", 1.4, lambda: a + a, lambda: b + b, rounds, 0.03),
            single("linear", "Linear 256 to 128, batch 32", 1.10, lambda: linear(x), lambda: moved(y), rounds, 0.03),
        ]


def minilm(rounds: int) -> list[dict[str, Any]]:
    cpu_model, tokenizer = load("cpu")
    mps_model = load("mps")[0]
    batch = batches_of(sentences()[:8], tokenizer, 8)[0]
    moved = {name: ids.to("mps") for name, ids in batch.items()}

    def on_cpu() -> object:
        return embed(cpu_model, batch)

    def on_mps() -> object:
        return embed(mps_model, moved)

    def on_mps_with_event() -> None:
        event = torch.mps.Event(enable_timing=False)
        embed(mps_model, moved)
        event.record()
        event.synchronize()

    torch.set_num_threads(1)
    measures = [single("minilm", "MiniLM forward, batch 8, one thread", 1.05, on_cpu, on_mps, rounds, 0.2)]

    default = os.cpu_count() or 1
    counts = sorted({1, 2, default // 2 or 1, default})
    crew = Crew(8)
    best: tuple[float, int] = (float("inf"), 0)
    tried: dict[str, list[float]] = {}
    for intra in counts:
        torch.set_num_threads(intra)
        crew.run(on_cpu)
        tried[str(intra)] = [crew.run(on_cpu) for _ in range(max(3, rounds // 8))]
        best = min(best, (statistics.median(tried[str(intra)]), intra))

    torch.set_num_threads(1)
    crew.run(on_cpu), crew.run(on_mps_with_event)
    cpus, others = paired(lambda: crew.run(on_cpu), lambda: crew.run(on_mps_with_event), max(5, rounds // 2))
    what = "8 threads of MiniLM: throughput, 1 intra-op thread each"
    samples = {"cpu_seconds": cpus, "mps_seconds": others}
    measures.append(measure("minilm_8_threads_equal", what, 0.97, "at least", samples, median_ratio(cpus, others)))

    def cpu_at_its_best() -> float:
        torch.set_num_threads(best[1])
        return crew.run(on_cpu)

    def mps_as_it_comes() -> float:
        torch.set_num_threads(default)
        return crew.run(on_mps_with_event)

    cpu_at_its_best(), mps_as_it_comes()
    cpus, others = paired(cpu_at_its_best, mps_as_it_comes, max(5, rounds // 2))
    crew.close()
    what = f"8 threads of MiniLM: throughput, CPU's best ({best[1]}) to the default ({default})"
    samples = {"cpu_seconds": cpus, "mps_seconds": others, **{f"cpu_seconds_at_{k}": v for k, v in tried.items()}}
    measures.append(measure("minilm_8_threads_best", what, 1.0, "at least", samples, median_ratio(cpus, others)))
    return measures


def peak_resident_bytes() -> int:
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux lets a process begin with the ru_maxrss of the one that started it; the peak of its memory is its own.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[1])


def resident(device: str) -> None:
    """In a process of its own: embeds all sentences from 8 threads and prints the most memory that it ever had."""
    model, tokenizer = load(device)
    batches = batches_of(sentences(), tokenizer, 8)

    def work(index: int) -> None:
        for batch in batches[index::8]:
            embed(model, {name: ids.to(device) for name, ids in batch.items()}).cpu()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"peak_bytes": peak_resident_bytes()}))


def memory(rounds: int) -> dict[str, Any]:
    def probe(device: str) -> float:
        done = subprocess.run([sys.executable, __file__, "--resident", device], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"the memory probe failed on {device}:\n{done.stderr}")
        return float(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])

    cpus, others = paired(lambda: probe("cpu"), lambda: probe("mps"), rounds)
    samples = {"cpu_peak_bytes": cpus, "mps_peak_bytes": others}
    what = "the demo's peak resident memory, 8 threads"
    return measure("memory", what, 1.15, "at most", samples, median_ratio(others, cpus))


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="pairs of samples for a figure (default: 40)")
    parser.add_argument("--only", choices=["ops", "minilm", "memory"], help="measure one group and write no file")
    parser.add_argument("--no-record", action="store_true", help="print only, write no file")
    parser.add_argument("--resident", choices=["cpu", "mps"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 3:
        parser.error("--rounds: give 3 or more, or a median says nothing")
    if args.resident:
        resident(args.resident)
        return 0
    if not torch.backends.mps.is_available():
        print("the mps device is not available; `./run doctor` says why", file=sys.stderr)
        return 1
    started, place = time.time(), machine()
    print(f"{'mps to CPU':<58}{'ratio':>7}   wanted")
    groups: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "ops": lambda: ops(args.rounds),
        "minilm": lambda: minilm(args.rounds),
        "memory": lambda: [memory(max(3, args.rounds // 10))],
    }
    measures = [row for name, group in groups.items() if args.only in (None, name) for row in group()]
    if not args.no_record and args.only is None:
        print(f"\nwritten: {write('cost', measures, place, started).relative_to(Path.cwd())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
