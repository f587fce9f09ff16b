"""Plans and joined calls on a GPU, beside PyTorch CUDA on the same card: eager, one CUDA graph a thread, and
torch.compile(mode="reduce-overhead"). Calls a second of all threads together, each waiting for its result; one run.

    RIVULET_ADAPTER=nvidia RIVULET_ACCELERATOR=cuda python benchmarks/plans_gpu.py --out result.json
    RIVULET_ADAPTER=llvmpipe LP_NUM_THREADS=0 python benchmarks/plans_gpu.py --quick

A plan's call and a graph's replay get the input that is on the device already. Joined calls are those of a plan whose dim 0
is free, with `coalesce`; their latencies are those of single calls,
and `at once` says that no batch waits for the callers of the one before. `empty` is a plan that does nothing: what the
interpreter alone allows.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RIVULET_ADAPTER", "nvidia")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import record  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import rivulet  # noqa: E402
from rivulet.selftest.workloads import Encoder, mlp  # noqa: E402

THREADS = (1, 8, 31)
#: What a thread calls again and again; made in that thread.
Maker = Callable[[], Callable[[], Any]]


def measure(make: Maker, threads: int, seconds: float) -> tuple[float, list[float]]:
    """Calls a second of all threads, and the microseconds of every call, sorted."""
    start, over = threading.Barrier(threads + 1), threading.Event()
    times: list[list[float]] = [[] for _ in range(threads)]
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            with torch.no_grad():
                call, clock, own = make(), time.perf_counter, times[index]
                for _ in range(10):
                    call()
                start.wait()
                while not over.is_set():
                    begun = clock()
                    call()
                    own.append(clock() - begun)
        except BaseException as error:
            failures.append(error)
            start.abort()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    begun = time.perf_counter()
    try:
        start.wait()
        begun = time.perf_counter()
        time.sleep(seconds)
    except threading.BrokenBarrierError:
        pass
    over.set()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - begun
    if failures:
        raise failures[0]
    every = sorted(1e6 * t for own in times for t in own)
    return len(every) / elapsed, every


def at(times: list[float], part: float) -> float:
    return times[int((len(times) - 1) * part)] if times else 0.0


def cuda_eager(model: nn.Module, x: torch.Tensor, own_stream: bool) -> Maker:
    def make() -> Callable[[], Any]:
        stream = torch.cuda.Stream() if own_stream else torch.cuda.default_stream()

        def call() -> None:
            with torch.cuda.stream(stream):
                model(x)
            stream.synchronize()

        return call

    return make


def cuda_graph(model: nn.Module, x: torch.Tensor) -> Maker:
    lock = threading.Lock()

    def make() -> Callable[[], Any]:
        # Capturing is not safe beside work of other threads.
        with lock:
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            with torch.cuda.stream(stream):
                own = x.clone()
                for _ in range(3):
                    model(own)
                stream.synchronize()
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    model(own)
                stream.synchronize()

        def call() -> None:
            with torch.cuda.stream(stream):
                graph.replay()
            stream.synchronize()

        return call

    return make


def mps_calls(run: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Maker:
    def make() -> Callable[[], Any]:
        stream = torch.mps.current_stream()

        def call() -> None:
            run(x)
            stream.synchronize()

        return call

    return make


def joined_calls(plan: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Maker:
    # Each thread has rows of its own, as callers do. The result is complete when the call returns.
    def make() -> Callable[[], Any]:
        own = x.clone()
        torch.mps.current_stream().synchronize()
        return lambda: plan(own)

    return make


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def workloads(quick: bool) -> dict[str, tuple[nn.Module, torch.Tensor, int]]:
    """Name, model, input, and the rows that joined calls may come to; 0 where they are not measured."""
    if quick:
        small = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        return {"mlp 64-128-64 b1": (small, torch.randn(1, 64), 32)}
    layer = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
    return {
        "lin 256-128 b32": (nn.Linear(256, 128), torch.randn(32, 256), 1024),
        "mlp b1": (mlp(), torch.randn(1, 512), 64),
        "mlp b32": (mlp(), torch.randn(32, 512), 1024),
        "TransformerEncoderLayer [8, 64, 256]": (layer, torch.randn(8, 64, 256), 0),
        "MiniLM-shaped [1, 32]": (Encoder(), torch.randint(0, 30522, (1, 32)), 32),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compile", action="store_true", help="also torch.compile(mode='reduce-overhead') on CUDA")
    args = parser.parse_args()
    torch.manual_seed(0)
    threads = (1, 4) if args.quick else THREADS
    seconds = 0.05 if args.quick else args.seconds
    has_cuda = torch.cuda.is_available()
    print(rivulet.adapter().name, torch.cuda.get_device_name() if has_cuda else "no CUDA", flush=True)
    rows: list[dict[str, Any]] = []

    def show(workload: str, way: str, count: int, make: Maker) -> float:
        try:
            rate, times = measure(make, count, seconds)
        except Exception as error:
            print(f"    {way}, {count} threads: {type(error).__name__}: {str(error)[:300]}", flush=True)
            return 0.0
        row = {"workload": workload, "way": way, "threads": count, "rate": rate, "p50": at(times, 0.5), "p99": at(times, 0.99)}
        rows.append(row)
        print(
            f"    {way:<34}{count:>3} threads {rate:>10.0f}/s   p50 {row['p50']:>8.1f}  p99 {row['p99']:>8.1f} us",
            flush=True,
        )
        return rate

    with torch.no_grad():
        nothing = rivulet.capture(Nothing(), torch.zeros(1, device="mps"))
        print("empty plan")
        for count in threads:
            show("empty", "plan", count, mps_calls(nothing, torch.zeros(1, device="mps")))
        for name, (model, x, most) in workloads(args.quick).items():
            if args.only not in name:
                continue
            print(name, flush=True)
            model = model.eval()
            if has_cuda:
                there, on_card = copy.deepcopy(model).cuda(), x.cuda()
                for count in threads:
                    for own in (True, False):
                        show(name, f"cuda eager, {'own streams' if own else 'default'}", count, cuda_eager(there, on_card, own))
                    show(name, "cuda graph a thread", count, cuda_graph(there, on_card))
                if args.compile:
                    compiled = torch.compile(there, mode="reduce-overhead")
                    # On the main thread first: on a thread of its own, the first call of most models fails an assertion of PyTorch's.
                    try:
                        for _ in range(3):
                            compiled(on_card)
                    except Exception as error:
                        print(f"    cuda torch.compile: {type(error).__name__}: {str(error)[:300]}", flush=True)
                    show(name, "cuda torch.compile", 1, cuda_eager(compiled, on_card, False))
            there, on_card = copy.deepcopy(model).to("mps"), x.to("mps")
            plan = rivulet.capture(there, on_card)
            expected, got = model.double()(x.double() if x.is_floating_point() else x), plan(on_card).cpu().double()
            print(f"    relative error {((got - expected).norm() / expected.norm()).item():.1e}", plan.stats())
            for count in threads:
                show(name, "mps eager", count, mps_calls(there, on_card))
                show(name, "plan", count, mps_calls(plan, on_card))
            if most:
                for flights, regroup in ((1, True), (1, False), (2, False)):
                    joined = rivulet.capture(there, on_card, dynamic_batch=True)
                    joined.coalesce(max_batch=most, max_in_flight=flights, regroup=regroup).warm_up()
                    way = f"plan, joined, {flights} in flight" + ("" if regroup else ", at once")
                    for count in threads:
                        show(name, way, count, joined_calls(joined, on_card))
                    sizes = joined.stats()["joined"]["sizes"]
                    print("     calls of a batch:", dict(sorted((int(size), count) for size, count in sizes.items())))
    record.keep(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
