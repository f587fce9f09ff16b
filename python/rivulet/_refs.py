"""Keeps PyTorch's Python kernels for mps off the ops that the library serves.

``torch._refs.linalg`` of some versions registers a kernel for ``linalg_lu_solve.out`` at mps while it is imported,
which the compiler does at a time of its own. That kernel returns without a result where out= has no elements yet.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ._import_hook import when_imported

MODULE = "torch._refs.linalg"
_LIBRARY = "mps_lib"


def withdraw(module: types.ModuleType) -> bool:
    """Takes the module's kernels for mps back; False where it has none, or none any more."""
    if getattr(module, "__rivulet__", False):
        return False
    library = getattr(module, _LIBRARY, None)
    destroy = getattr(library, "_destroy", None)
    if destroy is None:
        return False
    destroy()
    module.__rivulet__ = True  # type: ignore[attr-defined]
    return True


@contextmanager
def _without_its_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
        yield


def watch() -> bool:
    """Withdraws the kernels now where the module is imported already, and otherwise when it is. False where that was
    arranged before."""
    return when_imported(MODULE, withdraw, _without_its_warning)
