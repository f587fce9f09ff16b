"""``torch.mps.Event``: a point of a stream, fixed when it is recorded."""

from __future__ import annotations

from typing import NoReturn

import torch

from . import _load
from ._streams import stream_id_of

__all__ = ["Event"]


class Event:
    """A point of a stream that can be waited for, asked about, and timed.

    Recording and waiting go to the calling thread's current stream unless a stream is given. An event may be
    recorded again, which moves it, and used from any thread.

    Args:
        enable_timing: whether :meth:`elapsed_time` can be used (default: False).
    """

    def __init__(self, enable_timing: bool = False) -> None:
        native = _load.native()
        self._event = native.event_new(bool(enable_timing))
        # Bound once: at interpreter shutdown the finaliser cannot rely on any name of a module.
        self._free = native.c["rivulet_event_free"]

    def __del__(self) -> None:
        # __init__ may have failed before either was set.
        handle = self.__dict__.get("_event")
        free = self.__dict__.get("_free")
        if handle is not None and free is not None:
            free(handle)

    def record(self, stream: torch.Stream | None = None) -> None:
        """Moves the event to the present end of the stream, and submits the work before it."""
        _load.native().event_record(self._event, stream_id_of(stream))

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Makes later work of the stream wait for the event. Does not wait itself.

        An event that was never recorded is not waited for.
        """
        _load.native().event_wait(self._event, stream_id_of(stream))

    def query(self) -> bool:
        """True where the work before the event is complete; False for an event that was never recorded."""
        done, recorded = _load.native().event_query(self._event)
        return done and recorded

    def synchronize(self) -> None:
        """Waits for the work before the event, and for nothing after it. Other Python threads go on meanwhile."""
        _load.native().event_synchronize(self._event)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to `end_event`; waits for both.

        Raises:
            RuntimeError: where one of them was not recorded, or was made without ``enable_timing=True``.
        """
        if not isinstance(end_event, Event):
            raise TypeError(f"end_event must be a torch.mps.Event, not {type(end_event).__name__}")
        return _load.native().event_elapsed(self._event, end_event._event)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "cannot pickle or copy a torch.mps.Event: it is a point of this process's streams. "
            "Make a new event where one is needed"
        )

    def __repr__(self) -> str:
        return f"<torch.mps.Event {self._event}>"


# Where PyTorch's own class says it lives: tracebacks, `help` and code that compares names go by it.
Event.__module__ = "torch.mps.event"
