"""Says when other libraries may have registered kernels for mps; see Note [Takeover] in csrc/aten/takeover.h.

PyTorch tells nobody of a kernel that is registered, so what brings one is watched: a shared library that is loaded by
``torch.ops.load_library``, by ``ctypes`` or as an extension module, and the registrations of ``torch.library``. What
comes in by none of these is found when an op that is new is looked up in ``torch.ops``, and by the doctor.
"""

from __future__ import annotations

import _ctypes
import ctypes
import importlib.machinery
import os
import types
from collections.abc import Callable
from typing import Any

from . import _log
from ._native import Native

#: In every library that registers kernels; its own dependencies are searched, and they end in PyTorch's.
_DISPATCHER = "_ZN3c1010Dispatcher13realSingletonEv"


def look_again(native: Native, op: str | None = None) -> None:
    """Never raises: it runs inside of what others load."""
    try:
        native.look_again(op)
    except RuntimeError as error:
        _log.debug(f"kernels for mps were not looked through: {error}")


def stands_on_torch(handle: int) -> bool:
    """Whether the library behind a handle of the loader's is linked to PyTorch."""
    try:
        return bool(_ctypes.dlsym(handle, _DISPATCHER))
    except OSError:
        return False


def _stands_on_torch(path: str) -> bool:
    # Loaded already, this takes a handle and gives it back.
    try:
        handle = _ctypes.dlopen(path, os.RTLD_NOW | getattr(os, "RTLD_NOLOAD", 0))
    except OSError:
        return False
    try:
        return stands_on_torch(handle)
    finally:
        _ctypes.dlclose(handle)


def after_ctypes(native: Native) -> Callable[[Any], Any]:
    """For ``ctypes.CDLL.__init__``, which ``torch.ops.load_library`` comes to as well."""

    def wrapper(stock: Any) -> Any:
        def __init__(self: ctypes.CDLL, *args: Any, **kwargs: Any) -> None:
            stock(self, *args, **kwargs)
            if stands_on_torch(self._handle):
                look_again(native)

        return __init__

    return wrapper


def after_extension(native: Native) -> Callable[[Any], Any]:
    """For ``create_module`` of the loader of extension modules."""

    def wrapper(stock: Any) -> Any:
        def create_module(
            self: importlib.machinery.ExtensionFileLoader, spec: importlib.machinery.ModuleSpec
        ) -> types.ModuleType:
            module: types.ModuleType = stock(self, spec)
            if _stands_on_torch(self.path):
                look_again(native)
            return module

        return create_module

    return wrapper


def _op_name(library: Any, op: Any) -> str:
    schema = getattr(op, "_schema", None)
    if schema is None:
        return f"{library.ns}::{str(op).rpartition('::')[2]}"
    return str(schema.name) + (f".{schema.overload_name}" if schema.overload_name else "")


def around_registration(native: Native) -> Callable[[Any], Any]:
    """For ``torch.library.Library.impl``."""

    def wrapper(stock: Any) -> Any:
        def impl(self: Any, op_name: Any, fn: Any, dispatch_key: str = "", **kwargs: Any) -> Any:
            op = _op_name(self, op_name)
            if "MPS" in (dispatch_key or self.dispatch_key):
                native.make_room(op)
            try:
                return stock(self, op_name, fn, dispatch_key, **kwargs)
            finally:
                look_again(native, op)

        return impl

    return wrapper


def after_withdrawal(native: Native) -> Callable[[Any], Any]:
    """For ``torch.library.Library._destroy``."""

    def wrapper(stock: Any) -> Any:
        def _destroy(self: Any) -> None:
            has_kernels = _has_kernels(self._op_impls)
            stock(self)
            if has_kernels:
                look_again(native)

        return _destroy

    return wrapper


def after_collection(native: Native, stock: Callable[..., None]) -> Callable[..., None]:
    """For ``torch.library._del_library``, which does the same for a library that nobody holds any more."""

    def _del_library(captured_impls: Any, op_impls: Any, *args: Any) -> None:
        has_kernels = _has_kernels(op_impls)
        stock(captured_impls, op_impls, *args)
        if has_kernels:
            look_again(native)

    return _del_library


def _has_kernels(impls: Any) -> bool:
    """Whether one of the "namespace/op/key" is for mps."""
    return any("MPS" in key.rpartition("/")[2] for key in impls)


def after_lookup(native: Native) -> Callable[[Any], Any]:
    """For ``__getattr__`` of ``torch.ops``'s namespaces, which is called once for each op."""

    def wrapper(stock: Any) -> Any:
        def __getattr__(self: Any, op_name: str) -> Any:
            found = stock(self, op_name)
            look_again(native, "")
            return found

        return __getattr__

    return wrapper

