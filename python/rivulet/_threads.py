"""Gives a thread's stream slot back before ``Thread.join`` returns.

A native thread-local destructor runs when the operating system's thread ends, which is after ``join`` has returned:
a program that joins 31 workers and starts 31 new ones would now and then find no slot free. An object in a
``threading.local`` is finalised while the thread's Python state is taken down, and ``join`` waits for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ._native import Native, ThreadCallback

_local = threading.local()


class _ThreadEnd:
    """Lives in the thread's locals; its finaliser is the thread's end."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], int]) -> None:
        self._release = release

    def __del__(self) -> None:
        # Only the bound C function is touched: at interpreter shutdown this module's names may be gone already.
        self._release()


def install(native: Native) -> None:
    """Has the library tell us of each Python thread that takes a slot."""
    release = native.c["rivulet_thread_release"]
    local = _local

    def slot_taken() -> None:
        # A thread that gave its slot back by hand takes another later: replacing its sentinel would finalise the old
        # one and release the slot that was just taken.
        if not hasattr(local, "end"):
            local.end = _ThreadEnd(release)

    # The library keeps the address for the life of the process, so the object has to live as long.
    global _callback
    _callback = ThreadCallback(slot_taken)
    native.c["rivulet_set_thread_callback"](_callback)


_callback: object = None
