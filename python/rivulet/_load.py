"""Finds the native library for the running PyTorch, registers the device, and remembers what went wrong.

An exception from a ``torch.backends`` entry point breaks ``import torch`` for everybody, so nothing here lets one
out of :func:`autoload`: the device is then simply unavailable, and :data:`state` keeps the reason for the doctor.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import _log
from ._native import LibraryError, Native

if TYPE_CHECKING:
    from ._patch import Outcome

LIBRARY_DIR = Path(__file__).resolve().parent / "lib"
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"

_ACCELERATORS = {"": 0, "auto": 0, "mps": 1, "cuda": 2}


class Unavailable(Exception):
    """Why the device cannot be offered, and what to do about it."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass
class State:
    """What loading came to. Written once, under the lock of :func:`load`."""

    attempted: bool = False
    native: Native | None = None
    reason: str | None = None
    advice: str = ""
    details: str = ""
    patches: list[Outcome] = field(default_factory=list)


state = State()
_lock = threading.Lock()


def torch_minor(version: str) -> str:
    """``2.11`` of ``2.11.0+cu130``."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        raise Unavailable(f"torch.__version__ is {version!r}, which is no version number that Rivulet understands")
    return f"{found[1]}.{found[2]}"


def built_versions(directory: Path = LIBRARY_DIR) -> list[str]:
    """PyTorch versions for which there is a library, oldest first."""
    pattern = re.compile(r"librivulet_torch-(\d+)\.(\d+)" + re.escape(SUFFIX))
    names = os.listdir(directory) if directory.is_dir() else []
    found = sorted((int(m[1]), int(m[2])) for m in map(pattern.fullmatch, names) if m)
    return [f"{major}.{minor}" for major, minor in found]


def find_library(version: str) -> Path:
    """The library for this PyTorch: RIVULET_LIBRARY, or the one beside the package."""
    given = os.environ.get("RIVULET_LIBRARY")
    if given:
        path = Path(given)
        if not path.is_file():
            raise Unavailable(
                f"RIVULET_LIBRARY={given}: there is no such file",
                "Point RIVULET_LIBRARY at the native library, or unset it to use the one in the package.",
            )
        return path
    path = LIBRARY_DIR / f"librivulet_torch-{version}{SUFFIX}"
    if path.is_file():
        return path
    have = built_versions()
    there = f"only for {', '.join(have)}" if have else "for no version at all"
    raise Unavailable(
        f"there is no native library for torch {version} in {LIBRARY_DIR} ({there})",
        f"Build one for torch {version} (python build_native.py in a checkout, or reinstall Rivulet from source with "
        "pip install --no-build-isolation)" + (f", or install torch {' or '.join(have)}." if have else "."),
    )


def _check_switches() -> int:
    disable = os.environ.get("RIVULET_DISABLE", "").strip()
    if disable == "1":
        raise Unavailable("RIVULET_DISABLE=1 switches Rivulet off", "Unset RIVULET_DISABLE to use the mps device.")
    if disable not in ("", "0"):
        raise Unavailable(
            f"RIVULET_DISABLE={disable}: allowed are 0 and 1", "Set RIVULET_DISABLE to 0 or 1, or unset it."
        )
    choice = os.environ.get("RIVULET_ACCELERATOR", "").strip().lower()
    if choice not in _ACCELERATORS:
        raise Unavailable(
            f"RIVULET_ACCELERATOR={choice}: allowed are auto, mps and cuda",
            "Set RIVULET_ACCELERATOR to auto, mps or cuda, or unset it.",
        )
    gil_enabled = getattr(sys, "_is_gil_enabled", None)
    if gil_enabled is not None and not gil_enabled():
        raise Unavailable(
            "this Python runs without the GIL, which Rivulet does not support yet",
            "Run it with PYTHON_GIL=1, or use a standard build of Python.",
        )
    return _ACCELERATORS[choice]


def _load() -> None:
    accelerator = _check_switches()
    import torch

    version = torch_minor(torch.__version__)
    path = find_library(version)
    try:
        native = Native(path)
        built_for = native.built_for()
        if torch_minor(built_for) != version:
            raise Unavailable(
                f"{path} was built for torch {built_for}, but this is torch {torch.__version__}",
                f"Build the library for torch {version}, or install torch {built_for}.",
            )
    except LibraryError as error:
        raise Unavailable(
            str(error), f"Rebuild the library for torch {version} (python build_native.py in a checkout)."
        ) from None
    try:
        native.register(accelerator)
    except LibraryError as error:
        raise Unavailable(
            str(error),
            "Only one backend for mps can be loaded, and before anything asks for mps: remove the other one, or call "
            "rivulet.load() earlier.",
        ) from None

    from . import _patch, _threads

    # From here on the device exists, so the state says so before anything else can go wrong.
    state.native = native
    atexit.register(native.shutdown)
    _threads.install(native)
    state.patches = _patch.apply_all(native)
    _log.debug(f"{path} registered with torch {torch.__version__}")
    for outcome in state.patches:
        if outcome.note:
            _log.debug(f"patch {outcome.name}: {outcome.state}: {outcome.note}")


def ensure() -> State:
    """Loads once; later calls give the first one's outcome. Raises nothing but KeyboardInterrupt and its like."""
    with _lock:
        if state.attempted:
            return state
        state.attempted = True
        try:
            _load()
        except Unavailable as error:
            state.reason, state.advice = str(error), error.advice
        except ImportError as error:
            state.reason = f"PyTorch cannot be imported: {error}"
            state.advice = "Install torch for this Python."
        except Exception as error:
            state.reason = f"loading failed: {type(error).__name__}: {error}"
            state.advice = (
                "This is a bug in Rivulet; please report it with the traceback of the doctor's --json output."
            )
            state.details = traceback.format_exc()
        if state.reason:
            _log.debug(f"mps is unavailable: {state.reason}")
        return state


def autoload() -> None:
    """What the entry point does."""
    ensure()


def load() -> None:
    """Loads Rivulet by hand: for programs that run with ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` or from a checkout.

    Does nothing where it is loaded already.

    Raises:
        RuntimeError: with the reason where it cannot be loaded. A failed attempt is final for the process.
    """
    native()


def native() -> Native:
    """The loaded library.

    Raises:
        RuntimeError: with the reason where there is none.
    """
    now = state if state.native is not None else _ensure_with_torch()
    if now.native is None:
        advice = f" {now.advice}" if now.advice else ""
        raise RuntimeError(f"Rivulet is not available: {now.reason}.{advice}")
    return now.native


def _ensure_with_torch() -> State:
    # Importing torch first lets its entry point do the work, outside our lock: the entry point takes it too.
    try:
        import torch  # noqa: F401
    except ImportError:
        pass
    return ensure()
