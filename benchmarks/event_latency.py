"""Time from launching a tiny kernel to having waited for the event behind it, on PyTorch CUDA and on mps: alone, and
beside 8 threads whose streams each keep about 20 microseconds of such kernels queued. The Rust interface's figures are
those of the example `event_latency`.

    RIVULET_ADAPTER=nvidia RIVULET_ACCELERATOR=cuda python benchmarks/event_latency.py
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("RIVULET_ADAPTER", "nvidia")

import torch  # noqa: E402

ROUNDS, BESIDE, QUEUED = 3000, 8, 8


def tools(device: str) -> tuple[Any, Callable[[], Any]]:
    """What selects a thread's own stream, and what makes an event."""
    if device == "cuda":
        return torch.cuda.stream(torch.cuda.Stream()), torch.cuda.Event
    return torch.no_grad(), torch.mps.Event


def measure(device: str, rounds: int) -> list[float]:
    """Microseconds of each round, sorted."""
    own_stream, make_event = tools(device)
    with torch.no_grad(), own_stream:
        x, y, event = torch.zeros(1024, device=device), torch.ones(1024, device=device), make_event()
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            x.add_(y)
            event.record()
            event.synchronize()
            times.append((time.perf_counter() - begun) * 1e6)
    return sorted(times)


def keep_busy(device: str, over: threading.Event) -> None:
    own_stream, make_event = tools(device)
    with torch.no_grad(), own_stream:
        x, y, event = torch.zeros(1024, device=device), torch.ones(1024, device=device), make_event()
        while not over.is_set():
            for _ in range(QUEUED):
                x.add_(y)
            event.record()
            event.synchronize()


def show(what: str, times: list[float]) -> None:
    at = [times[int((len(times) - 1) * part)] for part in (0.5, 0.99, 1.0)]
    print(f"{what:<40} p50 {at[0]:>8.1f}  p99 {at[1]:>8.1f}  worst {at[2]:>8.1f} us", flush=True)


def main() -> None:
    for device in ("cuda", "mps") if torch.cuda.is_available() else ("mps",):
        measure(device, 200)
        show(f"{device}: kernel + event wait, alone", measure(device, ROUNDS))
        over = threading.Event()
        busy = [threading.Thread(target=keep_busy, args=(device, over)) for _ in range(BESIDE)]
        for thread in busy:
            thread.start()
        time.sleep(0.1)
        show(f"{device}: beside 8 streams of 20 us each", measure(device, ROUNDS))
        over.set()
        for thread in busy:
            thread.join()


if __name__ == "__main__":
    main()
