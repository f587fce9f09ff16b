"""Keeps PyTorch's Python kernels for mps off the ops that the library serves.

``torch._refs.linalg`` of some versions registers a kernel for ``linalg_lu_solve.out`` at mps while it is imported,
which the compiler does at a time of its own. That kernel returns without a result where out= has no elements yet.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

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


class _Loader(importlib.abc.Loader):
    """Runs the module as its own loader does, then takes its kernels back."""

    def __init__(self, stock: importlib.abc.Loader) -> None:
        self._stock = stock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._stock.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
            self._stock.exec_module(module)
        withdraw(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def watch() -> bool:
    """Withdraws the kernels now where the module is imported already, and otherwise when it is. False where that was
    arranged before."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return False
    loaded = sys.modules.get(MODULE)
    if loaded is not None:
        return withdraw(loaded)
    sys.meta_path.insert(0, _Finder())
    return True
