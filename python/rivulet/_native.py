"""The C interface ``rivulet.h`` as Python calls.

Every call keeps the GIL (``ctypes.PyDLL``): the library itself gives it up before it waits and takes it back after,
so a call that does not wait costs no hand-over, and an exception that a signal handler raised during a wait
(``KeyboardInterrupt``) comes out of the call as that exception. The few calls that may open a driver, and so take
long without waiting, drop the GIL around themselves (``ctypes.CDLL``).
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from typing import Any, NoReturn

OK, ERROR, OUT_OF_MEMORY, INTERRUPTED, INVALID = range(5)

#: Stands for "no stream was set": the thread's own slot.
NO_STREAM = 0xFFFFFFFF

ThreadCallback = ctypes.CFUNCTYPE(None)


class MemoryStats(ctypes.Structure):
    """``rivulet_memory_stats``: bytes, but for the last five counters from ``alloc_count`` that count calls."""

    _fields_ = [
        (name, c_uint64)
        for name in (
            "allocated",
            "reserved",
            "driver",
            "recommended_max",
            "peak_allocated",
            "peak_reserved",
            "alloc_count",
            "free_count",
            "alloc_bytes",
            "free_bytes",
            "active_blocks",
            "ooms",
            "retries",
        )
    ]


class BatchTurn(ctypes.Structure):
    """``rivulet_batch_turn``."""

    _fields_ = [("run", c_void_p), ("tokens", POINTER(c_uint64)), ("count", c_uint64), ("verdict", c_uint32)]


_STATUS = c_int32
_TEXT = POINTER(c_char_p)

#: name -> (result, arguments). What Python uses of rivulet.h; a test compares each line with the header.
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "rivulet_last_error": (c_char_p, ()),
    "rivulet_version": (c_char_p, ()),
    "rivulet_is_available": (_STATUS, ()),
    "rivulet_adapters_json": (_STATUS, (_TEXT,)),
    "rivulet_adapter_json": (_STATUS, (_TEXT,)),
    "rivulet_report_json": (_STATUS, (_TEXT,)),
    "rivulet_kernels_json": (_STATUS, (_TEXT,)),
    "rivulet_string_free": (None, (c_char_p,)),
    "rivulet_in_bad_fork": (_STATUS, ()),
    "rivulet_shutdown": (None, ()),
    "rivulet_capture_state": (_STATUS, (POINTER(c_int32), POINTER(c_int32))),
    "rivulet_capture_start": (_STATUS, (c_char_p,)),
    "rivulet_capture_stop": (_STATUS, ()),
    "rivulet_stream_here": (c_int64, ()),
    "rivulet_stream_peek": (_STATUS, (POINTER(c_uint32), POINTER(c_int32))),
    "rivulet_stream_exchange": (_STATUS, (c_uint32, POINTER(c_uint32))),
    "rivulet_stream_new": (_STATUS, (c_int32, POINTER(c_uint32))),
    "rivulet_stream_check": (_STATUS, (c_uint32,)),
    "rivulet_stream_query": (_STATUS, (c_uint32, POINTER(c_int32))),
    "rivulet_stream_synchronize": (_STATUS, (c_uint32,)),
    "rivulet_synchronize": (_STATUS, ()),
    "rivulet_thread_release": (_STATUS, ()),
    "rivulet_set_thread_callback": (None, (ThreadCallback,)),
    "rivulet_event_new": (_STATUS, (c_int32, POINTER(c_uint64))),
    "rivulet_event_free": (None, (c_uint64,)),
    "rivulet_event_record": (_STATUS, (c_uint64, c_uint32)),
    "rivulet_event_wait": (_STATUS, (c_uint64, c_uint32)),
    "rivulet_event_query": (_STATUS, (c_uint64, POINTER(c_int32), POINTER(c_int32))),
    "rivulet_event_synchronize": (_STATUS, (c_uint64,)),
    "rivulet_event_elapsed": (_STATUS, (c_uint64, c_uint64, POINTER(c_double))),
    "rivulet_block_of": (c_void_p, (c_void_p,)),
    "rivulet_memory": (_STATUS, (POINTER(MemoryStats),)),
    "rivulet_memory_reset": (_STATUS, (c_int32,)),
    "rivulet_empty_cache": (_STATUS, ()),
    "rivulet_set_memory_fraction": (_STATUS, (c_double,)),
    "rivulet_fallback_json": (_STATUS, (_TEXT,)),
    "rivulet_fallback_reset": (None, ()),
    "rivulet_batch_new": (
        _STATUS,
        (c_uint64, c_uint64, c_uint64, c_uint64, c_int32, c_uint64, POINTER(c_void_p)),
    ),
    "rivulet_batch_free": (None, (c_void_p,)),
    "rivulet_batch_call": (
        _STATUS,
        (c_void_p, c_uint64, c_uint64, c_uint64, c_int32, c_int64, POINTER(BatchTurn)),
    ),
    "rivulet_batch_submit": (
        _STATUS,
        (
            c_void_p,
            c_uint64,
            c_uint64,
            c_uint64,
            c_int32,
            c_int32,
            c_int64,
            POINTER(c_void_p),
            POINTER(BatchTurn),
        ),
    ),
    "rivulet_batch_serve": (_STATUS, (c_void_p, POINTER(BatchTurn))),
    "rivulet_batch_end": (None, (POINTER(BatchTurn), c_int32, c_int32)),
    "rivulet_batch_cancel": (c_int32, (c_void_p,)),
    "rivulet_batch_ticket_free": (None, (c_void_p,)),
    "rivulet_batch_close": (None, (c_void_p,)),
    "rivulet_batch_stats_json": (_STATUS, (c_void_p, _TEXT)),
    "rivulet_torch_register": (_STATUS, (c_int32,)),
    "rivulet_torch_look_again": (_STATUS, (c_char_p,)),
    "rivulet_torch_make_room": (_STATUS, (c_char_p,)),
    "rivulet_torch_displaced_json": (_STATUS, (_TEXT,)),
    "rivulet_torch_built_for": (c_char_p, ()),
    "rivulet_plan_surface": (_STATUS, (c_char_p, POINTER(c_void_p))),
}

_WITHOUT_GIL = {"rivulet_is_available", "rivulet_adapters_json", "rivulet_adapter_json", "rivulet_report_json"}


class LibraryError(Exception):
    """The native library cannot be used; the text says why."""


class Native:
    """One loaded library. Safe to use from any thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            # RTLD_LOCAL: what the library exports is for this object only, never for another library's symbols.
            released = ctypes.CDLL(self.path, mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise LibraryError(f"cannot load {self.path}: {error}") from None
        held = ctypes.PyDLL(self.path, handle=released._handle)
        missing: list[str] = []

        def bind(name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
            try:
                function = getattr(released if name in _WITHOUT_GIL else held, name)
            except AttributeError:
                missing.append(name)
                return None
            function.restype = result
            function.argtypes = arguments
            return function

        self.c: dict[str, Callable[..., Any]] = {
            name: bind(name, result, arguments) for name, (result, arguments) in SIGNATURES.items()
        }
        if missing:
            raise LibraryError(f"{self.path} is not a library of this Rivulet: it lacks {', '.join(missing)}")
        c = self.c
        self._stream_here = c["rivulet_stream_here"]
        self._stream_synchronize = c["rivulet_stream_synchronize"]
        self._stream_peek = c["rivulet_stream_peek"]
        self._stream_exchange = c["rivulet_stream_exchange"]
        self._event_record = c["rivulet_event_record"]
        self._event_wait = c["rivulet_event_wait"]
        self._event_query = c["rivulet_event_query"]
        self._event_synchronize = c["rivulet_event_synchronize"]

    # --- errors ---------------------------------------------------------------------------------------------

    def _text(self, name: str) -> str:
        value = self.c[name]()
        return value.decode("utf-8", "replace") if value else ""

    def fail(self, status: int) -> NoReturn:
        """Raises what a status stands for, with the calling thread's message."""
        message = self._text("rivulet_last_error") or f"rivulet failed with status {status} and left no message"
        if status == OUT_OF_MEMORY:
            from torch import OutOfMemoryError

            raise OutOfMemoryError(message)
        if status == INVALID:
            raise ValueError(message)
        if status == INTERRUPTED:
            # Reached only where the library saw the interrupt and no exception was left set for ctypes to raise.
            raise KeyboardInterrupt(message)
        raise RuntimeError(message)

    def _take_json(self, name: str, *arguments: Any) -> Any:
        out = c_char_p()
        status = self.c[name](*arguments, byref(out))
        if status != OK:
            self.fail(status)
        try:
            return json.loads(out.value.decode("utf-8") if out.value else "null")
        finally:
            self.c["rivulet_string_free"](out)

    # --- life -----------------------------------------------------------------------------------------------

    def register(self, accelerator: int) -> None:
        """Registers the device with PyTorch. accelerator: 0 to look, 1 mps, 2 cuda."""
        if self.c["rivulet_torch_register"](accelerator) != OK:
            raise LibraryError(self._text("rivulet_last_error") or "registration failed without a message")

    def look_again(self, op: str | None) -> None:
        """Finds what others have registered for mps since: for one op, for new ops (""), or at all (None)."""
        status = self.c["rivulet_torch_look_again"](None if op is None else op.encode())
        if status:
            self.fail(status)

    def make_room(self, op: str) -> None:
        """Takes back what `look_again` registered for an op that has no kernel for mps."""
        status = self.c["rivulet_torch_make_room"](op.encode())
        if status:
            self.fail(status)

    def displaced(self) -> list[dict[str, Any]]:
        """What others had registered for mps and is reached no more; see rivulet.h."""
        return list(self._take_json("rivulet_torch_displaced_json"))

    def built_for(self) -> str:
        """The PyTorch version that the library was compiled for."""
        return self._text("rivulet_torch_built_for")

    def version(self) -> str:
        """The library's own version."""
        return self._text("rivulet_version")

    def unavailable_reason(self) -> str | None:
        """None where an adapter can be opened, otherwise why not. Opens none."""
        if self.c["rivulet_is_available"]():
            return None
        return self._text("rivulet_last_error") or "no adapter can be opened"

    def adapters(self) -> list[dict[str, Any]]:
        """Every adapter of this machine. Loads Vulkan's drivers where there are any, opens no device."""
        return list(self._take_json("rivulet_adapters_json"))

    def adapter(self) -> dict[str, Any]:
        """The adapter in use, or the one that the settings choose."""
        return dict(self._take_json("rivulet_adapter_json"))

    def report(self) -> dict[str, Any]:
        """Streams, pool use, memory, adapter, settings. Takes no slot."""
        return dict(self._take_json("rivulet_report_json"))

    def kernels(self) -> dict[str, Any]:
        """GPU kernels: "families" and "pointwise_ops" that there are, those "compiled" so far, those "refused" by the
        driver's compiler. Takes no slot."""
        return dict(self._take_json("rivulet_kernels_json"))

    def in_bad_fork(self) -> bool:
        """True in a process forked after the device was used."""
        return bool(self.c["rivulet_in_bad_fork"]())

    def shutdown(self) -> None:
        """Ends the device's life; see rivulet.h."""
        self.c["rivulet_shutdown"]()

    # --- captures -------------------------------------------------------------------------------------------

    def capture_state(self) -> tuple[bool, bool]:
        """(can be begun, is being recorded)."""
        enabled, recording = c_int32(), c_int32()
        status = self.c["rivulet_capture_state"](byref(enabled), byref(recording))
        if status:
            self.fail(status)
        return bool(enabled.value), bool(recording.value)

    def capture_start(self, name: str) -> None:
        """Records all streams into a document named after `name`."""
        status = self.c["rivulet_capture_start"](os.fsencode(name))
        if status:
            self.fail(status)

    def capture_stop(self) -> None:
        """Ends the capture; nothing where none was begun."""
        status = self.c["rivulet_capture_stop"]()
        if status:
            self.fail(status)

    # --- streams --------------------------------------------------------------------------------------------

    def stream_current(self) -> int:
        """Stream of the calling thread; takes a slot where it has none, and may wait for one."""
        stream = self._stream_here()
        if stream < 0:
            self.fail(-stream)
        return stream

    def stream_peek(self) -> int | None:
        """Stream of the calling thread, None where it has none yet. Never takes a slot."""
        out, has_slot = c_uint32(), c_int32()
        status = self._stream_peek(byref(out), byref(has_slot))
        if status:
            self.fail(status)
        return out.value if has_slot.value else None

    def stream_exchange(self, stream: int) -> int:
        """Sets the calling thread's stream (NO_STREAM: its own slot) and gives the previous one."""
        out = c_uint32()
        status = self._stream_exchange(stream, byref(out))
        if status:
            self.fail(status)
        return out.value

    def stream_new(self, priority: int) -> int:
        """A further stream outside the slots."""
        out = c_uint32()
        status = self.c["rivulet_stream_new"](priority, byref(out))
        if status:
            self.fail(status)
        return out.value

    def stream_check(self, stream: int) -> None:
        """Raises ValueError where no such stream exists."""
        status = self.c["rivulet_stream_check"](stream)
        if status:
            self.fail(status)

    def stream_query(self, stream: int) -> bool:
        """Whether everything recorded on the stream is complete."""
        done = c_int32()
        status = self.c["rivulet_stream_query"](stream, byref(done))
        if status:
            self.fail(status)
        return bool(done.value)

    def stream_synchronize(self, stream: int) -> None:
        """Waits for what the stream holds at the call."""
        status = self._stream_synchronize(stream)
        if status:
            self.fail(status)

    def synchronize(self) -> None:
        """Waits for what every stream holds at the call."""
        status = self.c["rivulet_synchronize"]()
        if status:
            self.fail(status)

    def thread_release(self) -> None:
        """Gives the calling thread's slot back."""
        status = self.c["rivulet_thread_release"]()
        if status:
            self.fail(status)

    # --- events ---------------------------------------------------------------------------------------------

    def event_new(self, timing: bool) -> int:
        """Handle of a new event."""
        out = c_uint64()
        status = self.c["rivulet_event_new"](timing, byref(out))
        if status:
            self.fail(status)
        return out.value

    def event_record(self, event: int, stream: int) -> None:
        """Fixes the event at the stream's present end."""
        status = self._event_record(event, stream)
        if status:
            self.fail(status)

    def event_wait(self, event: int, stream: int) -> None:
        """Makes later work of the stream wait for the event."""
        status = self._event_wait(event, stream)
        if status:
            self.fail(status)

    def event_query(self, event: int) -> tuple[bool, bool]:
        """(complete, ever recorded)."""
        done, recorded = c_int32(), c_int32()
        status = self._event_query(event, byref(done), byref(recorded))
        if status:
            self.fail(status)
        return bool(done.value), bool(recorded.value)

    def event_synchronize(self, event: int) -> None:
        """Waits for the event's work."""
        status = self._event_synchronize(event)
        if status:
            self.fail(status)

    def event_elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two events."""
        out = c_double()
        status = self.c["rivulet_event_elapsed"](start, end, byref(out))
        if status:
            self.fail(status)
        return out.value

    # --- memory and counters --------------------------------------------------------------------------------

    def owns(self, address: int) -> bool:
        """Whether a live block of the allocator holds this address."""
        return bool(self.c["rivulet_block_of"](address))

    def memory(self) -> dict[str, int]:
        """The allocator's figures."""
        stats = MemoryStats()
        status = self.c["rivulet_memory"](byref(stats))
        if status:
            self.fail(status)
        return {field[0]: getattr(stats, field[0]) for field in MemoryStats._fields_}

    def fallback_counts(self) -> dict[str, int]:
        """Op overload name -> calls on the CPU path of a GPU adapter."""
        return {str(name): int(count) for name, count in self._take_json("rivulet_fallback_json").items()}

    def fallback_reset(self) -> None:
        """Sets the counts back."""
        self.c["rivulet_fallback_reset"]()

    # --- plans ----------------------------------------------------------------------------------------------

    def plan_surface(self, torch_python: str) -> tuple[Any, ...]:
        """The type and the functions that csrc/plan makes; torch_python is the path of PyTorch's Python library."""
        out = c_void_p()
        status = self.c["rivulet_plan_surface"](os.fsencode(torch_python), byref(out))
        if status:
            self.fail(status)
        # The cast takes a reference of its own; the one that the call gave is kept: the surface lives as the process.
        return tuple(ctypes.cast(out, ctypes.py_object).value)

    def batch_stats(self, queue: int | None) -> dict[str, Any]:
        """The figures of a queue of joined calls."""
        stats: dict[str, Any] = self._take_json("rivulet_batch_stats_json", queue)
        return stats
