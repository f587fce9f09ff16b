"""A queue of calls that are joined, as the library offers it; see ``rivulet::batch`` for how it behaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

from . import _load
from ._native import BatchTurn

#: What a turn says.
DONE, RUN, QUEUED, FULL, CLOSED, TIMED_OUT = range(6)

#: The largest number that the C interface takes for a limit.
UNLIMITED = 2**63 - 1


def microseconds(seconds: float | None) -> int:
    """A timeout for the C interface; -1 for none."""
    if seconds is None or seconds == math.inf:
        return -1
    if not seconds >= 0:
        raise ValueError(f"timeout must be None or >= 0 seconds, got {seconds!r}")
    return min(math.ceil(seconds * 1e6), UNLIMITED)


class Ticket:
    """A submitted request that may be taken back."""

    __slots__ = ("_cancel", "_free", "_handle")

    def __init__(self, c: dict[str, Callable[..., Any]], handle: int | None) -> None:
        self._handle = handle
        # Bound once: at interpreter shutdown the finaliser cannot rely on any name of a module.
        self._cancel, self._free = c["rivulet_batch_cancel"], c["rivulet_batch_ticket_free"]

    def cancel(self) -> bool:
        """True where the request had not been taken into a batch."""
        return bool(self._cancel(self._handle))

    def __del__(self) -> None:
        self._free(self._handle)


class CallQueue:
    """Owns the library's queue. Any thread; calls that wait let other Python threads run."""

    def __init__(
        self, max_batch: int, max_in_flight: int, max_queue: int, max_wait_us: int, regroup: bool = True
    ) -> None:
        native = _load.native()
        c = self._c = native.c
        self.fail = native.fail
        #: `rivulet_batch_call` and `rivulet_batch_end` themselves, for callers that count microseconds.
        self.c_call, self.c_end = c["rivulet_batch_call"], c["rivulet_batch_end"]
        self._submit, self._free = c["rivulet_batch_submit"], c["rivulet_batch_free"]
        out = c_void_p()
        # A thread that polls would hold the GIL, which the runner needs.
        status = c["rivulet_batch_new"](max_batch, max_in_flight, max_queue, max_wait_us, regroup, 0, out)
        if status:
            native.fail(status)
        self.handle = out.value

    def __del__(self) -> None:
        # __init__ may have failed before there was one.
        handle = self.__dict__.get("handle")
        if handle is not None:
            self._free(handle)

    def submit(
        self, turn: BatchTurn, token: int, key: int, rows: int, refuse: bool, wait: bool, timeout_us: int
    ) -> Ticket | None:
        """A ticket where the turn's verdict is ``QUEUED``."""
        out = c_void_p()
        status = self._submit(self.handle, token, key, rows, refuse, wait, timeout_us, out, turn)
        if status:
            self.fail(status)
        return Ticket(self._c, out.value) if turn.verdict == QUEUED else None

    def serve(self, turn: BatchTurn) -> bool:
        """Waits for a batch of submitted requests; False once the queue is closed and empty."""
        status = self._c["rivulet_batch_serve"](self.handle, turn)
        if status:
            self.fail(status)
        return bool(turn.verdict == RUN)

    def end(self, turn: BatchTurn, served: bool) -> None:
        """Ends the turn's run where it has one: with its members' results, or to have others run it."""
        self.c_end(turn, served, 0)

    def close(self) -> None:
        """Takes no more requests."""
        self._c["rivulet_batch_close"](self.handle)

    def stats(self) -> dict[str, Any]:
        """Counts and times (seconds) since the queue was made."""
        out: dict[str, Any] = _load.native().batch_stats(self.handle)
        out["sizes"] = {int(size): count for size, count in out["sizes"].items()}
        return out
