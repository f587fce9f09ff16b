"""Calls a second from 1, 2, 4 and 8 threads, beside the same calls on CPU tensors. Judges no speed: a result that is wrong
fails, a slow one is a number in the report."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable

import rivulet
import torch
from torch import nn

from ..compare import relative_error
from ..registry import Check, Context, Failed
from ..workloads import Encoder, mlp

THREADS = (1, 2, 4, 8)
Call = Callable[[], torch.Tensor]


_WORKLOADS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "Linear 256-128, 32 rows": lambda: (nn.Linear(256, 128), torch.randn(32, 256)),
    "MLP 512-1024-1024-512, 1 row": lambda: (mlp(), torch.randn(1, 512)),
    "TransformerEncoderLayer": lambda: (
        nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True),
        torch.randn(2, 32, 256),
    ),
    "MiniLM-shaped, 1 x 32 tokens": lambda: (Encoder(), torch.randint(0, 30522, (1, 32))),
}


def checks(context: Context) -> list[Check]:
    names = list(_WORKLOADS)[:3] if context.quick else list(_WORKLOADS)
    return [Check(name, _measured(name)) for name in names]


def _measured(name: str) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        made, x = _WORKLOADS[name]()
        made = made.eval()
        there, moved = copy.deepcopy(made).to("mps"), x.to("mps")
        counts = (1, 4) if context.quick else THREADS
        rivulet.reset_fallback_counts()
        with torch.no_grad():
            truth = copy.deepcopy(made).double()(x.double() if x.is_floating_point() else x)
            error = relative_error(there(moved), truth)
            own = relative_error(made(x), truth)
        context.facts["fallbacks"] = rivulet.fallback_counts()
        context.facts["relative_error"] = float(f"{error:.2e}")
        if not error <= max(1e-5, 2 * own):
            raise Failed(f"relative error {error:.2e}, the CPU's is {own:.2e}")
        seconds = 0.1 if context.quick else 0.5
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        rates: list[dict[str, float]] = []
        context.facts["rates"] = rates
        for count in counts:
            if rates and context.left() < 8 * seconds:
                context.facts["note"] = f"no time for {count} threads and more"
                break
            # PyTorch's own threads share the cores, as a program that runs so many calls at once would set them.
            torch.set_num_threads(max(1, cores // count))
            cpu = _rate(context, lambda: made(x), count, seconds, lambda: None)
            mps = _rate(context, lambda: there(moved), count, seconds, lambda: torch.mps.current_stream().synchronize())
            rates.append({"threads": count, "mps": round(mps, 2), "cpu": round(cpu, 2)})

    return run


def _rate(context: Context, call: Call, threads: int, seconds: float, wait: Callable[[], None]) -> float:
    """Calls a second of all threads together, with a wait after each call."""
    done = [0] * threads
    failures: list[BaseException] = []
    start = threading.Barrier(threads + 1)
    end = [float("inf")]

    def work(index: int) -> None:
        try:
            with torch.no_grad():
                for _ in range(2):
                    call()
                    wait()
                start.wait()
                while True:
                    call()
                    wait()
                    done[index] += 1
                    context.progress()
                    if time.perf_counter() >= end[0]:
                        break
        except BaseException as error:
            failures.append(error)
            start.abort()

    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(threads)]
    for worker in workers:
        worker.start()
    begun = time.perf_counter()
    try:
        start.wait()
        begun = time.perf_counter()
        end[0] = begun + seconds
    except threading.BrokenBarrierError:
        pass
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - begun
    if failures:
        raise failures[0]
    return sum(done) / elapsed
