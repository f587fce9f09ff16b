"""How two results differ: by value, shape, dtype, strides, layout, device, aliasing and autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from .samples import components


class Difference(Exception):
    """Two results are not alike; the message says where and how."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value of a result, with the path to it."""
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{path}[{key!r}]")
    else:
        yield path, value


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def bits_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout != torch.strided:
        return all(bits_equal(a, b) for a, b in zip(components(one), components(other)))
    # Most results are equal and without NaN, so the cheap question first. It has no kernel for complex32.
    if one.dtype != torch.complex32 and torch.equal(one, other):
        return True
    # Cloned, because a single element counts as contiguous whatever its stride.
    plain = [t.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format) for t in (one, other)]
    as_bytes = [t.reshape(-1).view(torch.uint8) if t.numel() else t.to(torch.uint8) for t in plain]
    return torch.equal(*as_bytes)


def check_form(path: str, host: torch.Tensor, device: torch.Tensor, autograd: bool, moved: bool) -> None:
    """Everything about a tensor but its values."""

    def same(what: str, on_host: Any, on_device: Any) -> None:
        if on_host != on_device:
            raise Difference(f"result{path}: {what} is {on_device} on mps, {on_host} on cpu")

    wanted = "mps" if host.device.type == "cpu" and moved else host.device.type
    if device.device.type != wanted:
        raise Difference(f"result{path}: lies on {device.device}, not on {wanted}")
    same("dtype", host.dtype, device.dtype)
    same("shape", tuple(host.shape), tuple(device.shape))
    same("layout", host.layout, device.layout)
    same("class", type(host), type(device))
    if host.layout == torch.strided:
        same("strides", host.stride(), device.stride())
        same("storage offset", host.storage_offset(), device.storage_offset())
        same("conjugate bit", host.is_conj(), device.is_conj())
        same("negative bit", host.is_neg(), device.is_neg())
    elif host.layout == torch.sparse_coo:
        same("coalesced", host.is_coalesced(), device.is_coalesced())
    if autograd:
        same("requires_grad", host.requires_grad, device.requires_grad)
        same("is_leaf", host.is_leaf, device.is_leaf)


def check_values(path: str, host: torch.Tensor, device: torch.Tensor) -> bool:
    """Whether they are equal bit by bit. Raises Difference where they are not even close."""
    with torch.no_grad():
        # A sample may name mps itself; its result then lies there on both sides.
        host, back = host.detach().cpu(), device.detach().cpu()
        if bits_equal(host, back):
            return True
        try:
            torch.testing.assert_close(back, host, equal_nan=True, check_stride=False)
        except AssertionError as error:
            if not close_as_a_whole(host, back):
                raise Difference(f"result{path}: {' '.join(str(error).split())}") from None
    return False


# Relative L2 distance of results that are sums of many terms, in another order than the CPU's.
WHOLE = {torch.float32: 1e-5, torch.complex64: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def close_as_a_whole(host: torch.Tensor, device: torch.Tensor) -> bool:
    """Where terms of a sum cancel, single elements may be far off beside their own size, but not beside the others'."""
    if host.dtype not in WHOLE or host.layout != torch.strided:
        return False
    limit = WHOLE[host.dtype]
    wide = torch.complex128 if host.dtype.is_complex else torch.float64
    host, device = host.to(wide), device.to(wide)
    finite = host.isfinite()
    if not torch.equal(finite, device.isfinite()):
        return False
    if not torch.equal(host[~finite].nan_to_num(nan=0.5), device[~finite].nan_to_num(nan=0.5)):
        return False
    distance, size = ((t.abs().square().sum().sqrt()) for t in (host[finite] - device[finite], host[finite]))
    return bool(distance <= limit * size)


def check_results(
    host: Any, device: Any, *, values: bool = True, autograd: bool = False, moved: bool = True
) -> bool:
    """Raises Difference where the results differ; returns whether they are equal bit by bit.

    `moved` is false where nothing in the sample names a device: then the result lies on the CPU on both sides.
    """
    exact = True
    on_host, on_device = list(leaves(host)), list(leaves(device))
    if len(on_host) != len(on_device):
        raise Difference(f"{len(on_device)} results on mps, {len(on_host)} on cpu")
    for (path, a), (_, b) in zip(on_host, on_device):
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            check_form(path, a, b, autograd, moved)
            if values and a.device.type != "meta":
                exact = check_values(path, a, b) and exact
        elif isinstance(a, torch.device):
            if b.type != ("mps" if a.type == "cpu" and moved else a.type):
                raise Difference(f"result{path}: device {b} on mps, {a} on cpu")
        elif type(a) is not type(b):
            raise Difference(f"result{path}: {type(b).__name__} on mps, {type(a).__name__} on cpu")
        elif values and isinstance(a, (int, float, complex, bool)):
            if a != b and not (a != a and b != b) and not _close(a, b):
                raise Difference(f"result{path}: {b} on mps, {a} on cpu")
    return exact


def _close(a: complex, b: complex) -> bool:
    return abs(a - b) <= 1e-5 + 1.3e-6 * abs(a) if math.isfinite(abs(a)) and math.isfinite(abs(b)) else False


def sharing(results: Any, inputs: list[torch.Tensor]) -> list[list[int]]:
    """For each result the inputs and earlier results that it shares memory with."""
    known = [_addresses(tensor) for tensor in inputs]
    found = []
    for result in tensors(results):
        mine = _addresses(result)
        found.append([index for index, other in enumerate(known) if mine & other])
        known.append(mine)
    return found


def _addresses(tensor: torch.Tensor) -> set[int]:
    if tensor.device.type == "meta":
        return set()
    found = set()
    for part in components(tensor.detach()):
        storage = part.untyped_storage()
        if storage.nbytes():
            found.add(storage._cdata)
    return found


def distributions_differ(one: torch.Tensor, other: torch.Tensor) -> str | None:
    """Whether two sets of draws, one draw a row, come from different distributions; says how, or None.

    Values within a draw may depend on each other (a feature dropout drops whole planes), so what is compared are
    numbers with one value a draw: means, a norm, and some single positions. Two-sample Kolmogorov-Smirnov at one in a
    million each; conservative for discrete values and for those that do not vary, which is the side to err on here.
    """
    one, other = (torch.nan_to_num(draws, nan=1e300, posinf=1e200, neginf=-1e200) for draws in (one, other))
    if not one.numel():
        return None
    positions = torch.linspace(0, one.shape[1] - 1, min(8, one.shape[1])).long().tolist()
    statistics = {f"value {position}": [draws[:, position] for draws in (one, other)] for position in positions}
    statistics["mean"] = [draws.mean(1) for draws in (one, other)]
    statistics["mean of squares"] = [draws.square().mean(1) for draws in (one, other)]
    for name, (a, b) in statistics.items():
        distance = _ks_distance(a, b)
        limit = math.sqrt(-math.log(1e-6 / 2) / 2) * math.sqrt((len(a) + len(b)) / (len(a) * len(b)))
        if distance > limit:
            return f"{name}: distributions lie {distance:.3f} apart (limit {limit:.3f}) over {len(a)} draws"
    return None


def _ks_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Values that rounding alone tells apart count as equal: a discrete distribution may lie a little beside itself.

    So do subnormal numbers and zero, for which a device may take them.
    """
    a, b = a.sort().values, b.sort().values
    points = torch.cat([a, b])
    usual = points[points.abs() < 1e100]
    slack = max(1e-4 * (usual.abs().max().item() if len(usual) else 0.0), torch.finfo(torch.float32).tiny)

    def share(v: torch.Tensor, shift: float) -> torch.Tensor:
        return torch.searchsorted(v, points + shift, right=True).double() / len(v)

    above = share(a, -slack) - share(b, slack)
    below = share(b, -slack) - share(a, slack)
    return max(above.max().item(), below.max().item(), 0.0)


def numbers(values: torch.Tensor) -> torch.Tensor:
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return values.double().reshape(-1)
