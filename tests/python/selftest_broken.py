"""Parts of a selftest on a device that is broken in every way; test_selftest.py runs them in the selftest's processes."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from pathlib import Path

from rivulet.selftest.registry import Check, Context, Failed, NotHere


def _good(context: Context) -> None:
    context.facts["process"] = os.getpid()


def _wrong(context: Context) -> None:
    raise Failed("add of float32 [3]: 1 of 3 elements, first 2.0 instead of 3.0 at [1]")


def _raises(context: Context) -> None:
    raise RuntimeError("the driver said no")


def _aborts(context: Context) -> None:
    print("assertion failed: commit an already committed command buffer", flush=True)
    os.abort()


def _segfault(context: Context) -> None:
    ctypes.string_at(0)


def _exits(context: Context) -> None:
    os._exit(9)


def hangs_here() -> None:
    time.sleep(600)


def _hangs(context: Context) -> None:
    if marker := os.environ.get("SELFTEST_MARKER"):
        Path(marker).write_text(str(os.getpid()))
    thread = threading.Thread(target=hangs_here, daemon=True)
    thread.start()
    thread.join()


def _long_but_alive(context: Context) -> None:
    for _ in range(12):
        time.sleep(0.25)
        context.progress()


def _no_such_thing(context: Context) -> None:
    raise NotHere("this device has no such thing")


def _dies_at_the_end(context: Context) -> None:
    atexit.register(os.abort)


_KINDS = {
    "good": _good,
    "wrong": _wrong,
    "raises": _raises,
    "aborts": _aborts,
    "segfault": _segfault,
    "exits": _exits,
    "hangs": _hangs,
    "long": _long_but_alive,
    "not here": _no_such_thing,
    "dies at the end": _dies_at_the_end,
}


def checks(context: Context) -> list[Check]:
    """Those that SELFTEST_CHECKS names, in its order; a number in front keeps names apart."""
    asked = os.environ["SELFTEST_CHECKS"]
    if asked == "none can be made":
        raise ImportError("no checks today")
    return [Check(f"{number} {kind}", _KINDS[kind]) for number, kind in enumerate(asked.split(","))]
