"""Something to do when a module of PyTorch's is imported, which may be never: now where it is imported already."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Then = Callable[[types.ModuleType], bool]
Around = Callable[[], AbstractContextManager[Any]]


class _Loader(importlib.abc.Loader):
    """Runs the module as its own loader does, then does what there is to do."""

    def __init__(self, stock: importlib.abc.Loader, then: Then, around: Around) -> None:
        self._stock, self._then, self._around = stock, then, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._stock.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with self._around():
            self._stock.exec_module(module)
        self._then(module)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, then: Then, around: Around) -> None:
        self.name, self._then, self._around = name, then, around

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._then, self._around)
        return spec


def when_imported(name: str, then: Then, around: Around = nullcontext) -> bool:
    """Calls `then` with the module of this name, whose body runs inside `around`. False where that was arranged before,
    or `then` says so of a module that is there."""
    if any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        return False
    loaded = sys.modules.get(name)
    if loaded is not None:
        return then(loaded)
    sys.meta_path.insert(0, _Finder(name, then, around))
    return True
