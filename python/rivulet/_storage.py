"""Storages: made on mps, aliased by the CPU, and not shared between processes."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

import torch

from . import _load


def _is_mps(device: Any) -> bool:
    return device is not None and torch.device(device).type == "mps"


def storage_new(stock: Callable[..., Any]) -> Callable[..., Any]:
    """``UntypedStorage.__new__`` that also makes mps storages; PyTorch's own knows only devices it was built with."""

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        # torch.device() under a fake or default device mode is a plain object too, so this asks nothing of a mode.
        if device is None or not _is_mps(device):
            return stock(cls, *args, **kwargs)
        if cls is not torch.UntypedStorage or len(args) > 1 or set(kwargs) - {"device"}:
            raise TypeError(
                f"{cls.__name__}: a storage on mps is made as torch.UntypedStorage(size, device='mps') "
                "or torch.UntypedStorage(sequence, device='mps')"
            )
        size_or_data = args[0] if args else 0
        try:
            size = operator.index(size_or_data)
        except TypeError:
            data = torch.UntypedStorage(size_or_data)  # type: ignore[no-untyped-call]
            return _empty(data.nbytes(), device).copy_(data, False)
        if size < 0:
            raise RuntimeError(f"torch.UntypedStorage: size must not be negative, got {size}")
        return _empty(size, device)

    return __new__


def _empty(size: int, device: Any) -> torch.UntypedStorage:
    # A storage is below what modes such as FakeTensorMode see; PyTorch's constructor escapes them as well.
    with torch._C._DisableTorchDispatch():
        return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()


def host_alias_storage(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A CPU storage over the bytes of an mps storage, which it keeps alive.

    Ordering is the caller's: ``torch.mps.synchronize()`` before the CPU touches the bytes, and again before the
    device does.

    Raises:
        RuntimeError: where the bytes are not the allocator's, or the CPU cannot reach them.
    """
    if not isinstance(storage, torch.UntypedStorage):
        raise TypeError(f"expected a torch.UntypedStorage, got {type(storage).__name__}")
    if storage.device.type != "mps":
        raise RuntimeError(f"_host_alias_storage: expected a storage on mps, got one on {storage.device}")
    size = storage.nbytes()
    if size == 0:
        return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
    native = _load.native()
    address = storage.data_ptr()
    adapter = native.adapter()
    if not native.owns(address):
        raise RuntimeError("_host_alias_storage: the storage is not backed by memory of the mps allocator")
    if not adapter.get("unified_memory"):
        raise RuntimeError(
            f"_host_alias_storage: the CPU does not share the memory of adapter {adapter.get('name')!r}; use .cpu()"
        )
    view = (ctypes.c_ubyte * size).from_address(address)
    view._storage = storage  # type: ignore[attr-defined]
    return torch.frombuffer(view, dtype=torch.uint8).untyped_storage()


def storage_resize(stock: Callable[..., Any]) -> Callable[..., Any]:
    """``UntypedStorage.resize_`` that also grows mps storages; PyTorch's own has no case for mps on any system."""

    def resize_(self: torch.UntypedStorage, size: Any, *args: Any, **kwargs: Any) -> Any:
        if self.device.type != "mps":
            return stock(self, size, *args, **kwargs)
        wanted = operator.index(size)
        if wanted < self.nbytes():
            raise RuntimeError(
                f"UntypedStorage.resize_: a storage on mps can grow but not shrink (from {self.nbytes()} to {wanted} "
                "bytes); to free it, drop the tensors that use it"
            )
        with torch._C._DisableTorchDispatch():
            # A tensor that outgrows its storage grows the storage, in place for all that share it.
            torch.empty(0, dtype=torch.uint8, device=self.device).set_(self).resize_(wanted)
        return self

    return resize_


def refuse_sharing(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The CPU's way to share a storage between processes would replace an mps storage by a CPU one in place, under
    tensors that still say mps."""

    def share(self: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
        if self.device.type == "mps":
            raise RuntimeError("memory of the mps device cannot be shared between processes; share a .cpu() copy")
        return stock(self, *args, **kwargs)

    return share
