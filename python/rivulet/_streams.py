"""``torch.mps.Stream`` and its functions, with the interface that PyTorch has from 2.15 on.

There is one notion of a thread's current stream, and the library holds it: ``torch.mps.set_stream``,
``torch.accelerator.set_stream`` and ``with torch.Stream(...)`` all change the same thing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from . import _load
from ._native import NO_STREAM

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Stream", "current_stream", "default_stream", "set_stream", "stream"]

_MPS: int = 13  # c10::DeviceType::MPS

#: torch.Stream's id for "no stream was set", which its signed ids cannot hold as NO_STREAM.
_OWN_STREAM = -1

_entered = threading.local()

#: One object for each stream that was asked for by number: making one costs more than a small op. Streams live for the
#: whole process, and there are at most some hundred.
_known: dict[int, Stream] = {}


def stream_id_of(stream: torch.Stream | None) -> int:
    """The library's id of a stream; NO_STREAM for None.

    Raises:
        TypeError: for something that is no stream.
        RuntimeError: for a stream of another device.
    """
    if stream is None:
        return NO_STREAM
    if not isinstance(stream, torch.Stream):
        raise TypeError(f"expected a torch.mps.Stream or torch.Stream, got {type(stream).__name__}")
    if stream.device_type != _MPS:
        raise RuntimeError(f"Expected an MPS stream but got device type {stream.device.type}.")
    return NO_STREAM if stream.stream_id == _OWN_STREAM else stream.stream_id


class Stream(torch.Stream):
    """A line of work on the mps device, independent of other streams.

    Made without arguments it is a further stream, outside the slots that threads take. Streams live for the whole
    process, like the pool that they come from; two objects with one id are the same stream and compare equal.

    Args:
        device: "mps" or index 0, the only one there is.
        priority: 0, or -1 for a stream whose work goes first.
        stream_id: the id of an existing stream, to get another object for it.
    """

    def __new__(
        cls,
        device: torch.device | str | int | None = None,
        priority: int = 0,
        *,
        stream_id: int | None = None,
        device_index: int = 0,
        device_type: int = _MPS,
    ) -> Self:
        if device is not None:
            device = torch.device("mps", device) if isinstance(device, int) else torch.device(device)
            device_type, device_index = _MPS if device.type == "mps" else -1, device.index or 0
        if device_type != _MPS or device_index != 0:
            given = device if device is not None else f"device_type={device_type}, device_index={device_index}"
            raise ValueError(f"torch.mps.Stream: {given} is not a device it can be on; there is mps:0 only")
        native = _load.native()
        if stream_id is None:
            stream_id = native.stream_new(priority)
        else:
            if not 0 <= stream_id < NO_STREAM:
                raise ValueError(f"Invalid MPS stream id {stream_id}.")
            native.stream_check(stream_id)
        made: Self = super().__new__(cls, stream_id=stream_id, device_index=0, device_type=_MPS)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # torch.Stream has no __init__; object's would refuse the arguments that __new__ has used.
        pass

    @property
    def priority(self) -> int:
        """0, or -1 for a stream whose work goes first."""
        for known in _load.native().report().get("streams", ()):
            if known.get("id") == self.stream_id:
                return int(known.get("priority", 0))
        return 0

    def query(self) -> bool:
        """True where all work of this stream is complete."""
        return _load.native().stream_query(self.stream_id)

    def synchronize(self) -> None:
        """Waits for the work that the stream holds at the call. Other Python threads go on meanwhile."""
        _load.native().stream_synchronize(self.stream_id)

    def wait_stream(self, stream: torch.Stream) -> None:
        """Makes later work of this stream wait for the work that `stream` holds now."""
        super().wait_stream(stream)

    def wait_event(self, event: Any) -> None:
        """Makes later work of this stream wait for the event, a torch.mps.Event or a torch.Event."""
        from ._events import Event

        if isinstance(event, Event):
            event.wait(self)
        else:
            super().wait_event(event)

    def record_event(self, event: Any = None) -> Any:
        """Records the event, a torch.mps.Event or a torch.Event, on this stream; makes a torch.Event where none is
        given. Returns the event."""
        from ._events import Event

        if isinstance(event, Event):
            event.record(self)
            return event
        return super().record_event(event) if event is not None else super().record_event()

    def __enter__(self) -> Self:
        # One object may be entered by several threads, and by one thread twice, so what to go back to is kept per
        # thread and not in the object.
        previous = _load.native().stream_exchange(self.stream_id)
        try:
            _entered.previous.append(previous)
        except AttributeError:
            _entered.previous = [previous]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _load.native().stream_exchange(_entered.previous.pop())

    # torch.Stream of 2.11 gives False for both == and != with something that is no stream.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, torch.Stream) and super().__eq__(other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = torch.Stream.__hash__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("cannot pickle or copy a torch.mps.Stream: it belongs to this process")

    def __repr__(self) -> str:
        return f"<torch.mps.Stream stream_id={self.stream_id}>"


@contextmanager
def stream(stream: torch.Stream | None) -> Iterator[None]:
    """Selects a stream for the calling thread while the block runs; does nothing for None."""
    if stream is None:
        yield
        return
    native = _load.native()
    # Exchanging, unlike asking for the current stream, takes no slot for a thread that has none yet.
    previous = native.stream_exchange(stream_id_of(stream))
    try:
        yield
    finally:
        native.stream_exchange(previous)


def _existing(stream_id: int) -> Stream:
    """The object of a stream that is known to exist."""
    try:
        return _known[stream_id]
    except KeyError:
        # Of two threads that make one at the same time both get the same.
        return _known.setdefault(stream_id, Stream(stream_id=stream_id))


def current_stream() -> Stream:
    """The calling thread's stream. A thread that has none takes its slot here."""
    return _existing(_load.native().stream_current())


def default_stream() -> Stream:
    """The main thread's stream."""
    return _existing(0)


def set_stream(stream: torch.Stream | None) -> None:
    """Makes a stream the calling thread's current one; does nothing for None. Prefer :func:`stream`."""
    if stream is not None:
        _load.native().stream_exchange(stream_id_of(stream))


for _public in (Stream, stream, current_stream, default_stream, set_stream):
    _public.__module__ = "torch.mps.streams"
