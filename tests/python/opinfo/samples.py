"""Copies of samples on another device: same values, strides, offsets, aliasing, conjugate and negative bits."""

from __future__ import annotations

from typing import Any

import torch

COMPRESSED = {torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}


def components(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The strided tensors that a sparse tensor is made of; a strided one is its own."""
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


class OnHost:
    """A tensor of a sample that PyTorch wants on the CPU whatever the device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class Mirror:
    """Copies everything that one sample holds to `device`.

    Tensors that share a storage share one there too, and a tensor met twice is one tensor, so one Mirror serves one
    sample. `leaves` are the copies that require grad, in the order met.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        # Whether the sample named a device at all, by a tensor or by itself.
        self.moved = False
        self.leaves: list[torch.Tensor] = []
        self.tensors: list[torch.Tensor] = []
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, OnHost):
            return value.tensor.clone()
        if isinstance(value, torch.device):
            self.moved = True
            return self.device if value.type == "cpu" else value
        if isinstance(value, torch.Generator):
            return self.generator(value)
        if isinstance(value, slice):
            return slice(self(value.start), self(value.stop), self(value.step))
        if isinstance(value, torch.Size):
            return value
        if isinstance(value, tuple):
            parts = [self(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, list):
            return [self(part) for part in value]
        if isinstance(value, dict):
            return type(value)((key, self(part)) for key, part in value.items())
        if isinstance(value, str) and value == "cpu":
            self.moved = True
            return str(self.device)
        return value

    def generator(self, generator: torch.Generator) -> torch.Generator:
        self.moved = True
        return torch.Generator(self.device).manual_seed(generator.initial_seed())

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        self.moved = True
        if id(tensor) in self._seen:
            return self._seen[id(tensor)][1]
        with torch.no_grad():
            copy = self._copy(tensor.detach())
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
        elif tensor.requires_grad:
            copy.requires_grad_()
        if tensor.requires_grad:
            self.leaves.append(copy)
        self.tensors.append(copy)
        self._seen[id(tensor)] = (tensor, copy)
        return copy

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "cpu":
            return tensor
        if tensor.layout == torch.sparse_coo:
            indices, values = (self.tensor(part) for part in components(tensor))
            return torch.sparse_coo_tensor(
                indices, values, tensor.shape, is_coalesced=tensor.is_coalesced(), check_invariants=False
            )
        if tensor.layout in COMPRESSED:
            compressed, plain, values = (self.tensor(part) for part in components(tensor))
            return torch.sparse_compressed_tensor(
                compressed, plain, values, tensor.shape, layout=tensor.layout, check_invariants=False
            )
        if tensor.is_conj():
            return self._copy(tensor.conj()).conj()
        if tensor.is_neg():
            return torch._neg_view(self._copy(torch._neg_view(tensor)))
        storage = self._storage(tensor.untyped_storage())
        copy = torch.empty(0, dtype=tensor.dtype, device=self.device)
        return copy.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())

    def _storage(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        key = storage._cdata
        if key not in self._storages:
            as_bytes = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))
            copy = as_bytes.clone().to(self.device).untyped_storage()
            # The original is kept so that its address is not given to another storage meanwhile.
            self._storages[key] = (storage, copy)
        return self._storages[key][1]
