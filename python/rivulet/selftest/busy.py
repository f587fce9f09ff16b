"""Work that keeps the device busy for some milliseconds, so that what has to wait for it is seen to wait."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch


@functools.cache
def busy_work(seconds: float = 0.004) -> Callable[[], torch.Tensor]:
    """A call that gives the current stream about so much work; measured by the first call. Any thread."""
    with torch.no_grad():
        for size in (64, 128, 256, 512, 1024, 2048, 4096):
            x = torch.eye(size, device="mps")
            (x @ x).sum().item()
            begun = time.perf_counter()
            (x @ x).sum().item()
            once = time.perf_counter() - begun
            if once * 16 > seconds:
                break
        times = max(1, min(64, round(seconds / max(once, 1e-6))))

    def work() -> torch.Tensor:
        with torch.no_grad():
            y = x
            for _ in range(times):
                y = y @ x
            return y

    return work
