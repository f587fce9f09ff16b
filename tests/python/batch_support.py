"""What the tests of joined calls share: models that can be held, and rows that are known by their numbers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time

import torch

LONG = 30.0


class Gated:
    """A model that can be held; what it was called with is noted."""

    def __init__(self, model=None):
        self.model = model or (lambda x: x * 2 + 1)
        self.batches = []
        self.entered = threading.Semaphore(0)
        self._permits = None

    def hold(self):
        self._permits = threading.Semaphore(0)

    def let(self, runs):
        self._permits.release(runs)

    def go(self):
        permits, self._permits = self._permits, None
        if permits is not None:
            permits.release(1000)

    def __call__(self, *args, **kwargs):
        permits = self._permits
        self.batches.append([tuple(x.shape) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)])
        self.entered.release()
        assert permits is None or permits.acquire(timeout=LONG)
        return self.model(*args, **kwargs)


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def rows(count, value, *shape, device="mps"):
    """Rows that all hold one number, by which they are known."""
    return torch.full((count, *(shape or (4,))), float(value), device=device)


@contextlib.contextmanager
def held(batcher, model, calls, first=None):
    """Runs the calls, as functions without arguments, such that all are queued, in their order, while one runs. Yields
    futures of them."""
    model.hold()
    # Of calls before these, whose runs nobody waited for: else others might come before the first of these.
    while model.entered.acquire(blocking=False):
        pass
    with concurrent.futures.ThreadPoolExecutor(len(calls) + 1) as pool:
        inputs = rows(1, -1) if first is None else first
        before = pool.submit(lambda: batcher(*inputs) if isinstance(inputs, tuple) else batcher(inputs))
        assert model.entered.acquire(timeout=LONG)
        futures = []
        for call in calls:
            waiting = batcher.stats()["queued"]
            futures.append(pool.submit(call))
            until(lambda waiting=waiting: batcher.stats()["queued"] > waiting)
        model.batches.clear()
        try:
            yield futures
        finally:
            model.go()
            before.result(LONG)


def outcomes(futures):
    return [future.exception(LONG) or future.result() for future in futures]
