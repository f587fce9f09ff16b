"""Results of the device beside the CPU's: form first, then values, with what is allowed said in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .registry import Failed

#: Relative and absolute error allowed, by element type: what PyTorch's own tests allow.
TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1.3e-6, 1e-5),
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
}


def to_device(value: Any) -> Any:
    """The same on mps; a view stays a view of the same shape, strides and offset."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_contiguous() and value.storage_offset() == 0:
        return value.to("mps")
    base = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    return base.to("mps").as_strided(value.shape, value.stride(), value.storage_offset())


def in_float64(value: Any) -> Any:
    """Floating-point tensors in float64, everything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def exact(call: Callable[..., Any], operands: tuple[Any, ...]) -> tuple[torch.Tensor, ...] | None:
    """The results in float64 on the CPU; None where the call has none, such as one that names a type itself."""
    if not any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in operands):
        return None
    try:
        return as_tuple(call(*map(in_float64, operands)))
    except Exception:
        return None


def as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype)[6:]} {list(tensor.shape)} with strides {list(tensor.stride())}"


def beside_cpu(call: Callable[..., Any], *operands: Any, what: str = "", strides: bool = True) -> None:
    """Calls on the CPU and on mps; raises :class:`Failed` where the forms differ, or the values are wrong.

    Values are right where each is within :data:`TOLERANCES` of the CPU's. The CPU's result is no truth for float16 and for
    long sums, so what is within them of the same call in float64 is right as well, and what is as near to that as the CPU
    (:func:`as_near_as_the_cpu`).
    """
    expected = as_tuple(call(*operands))
    got = as_tuple(call(*map(to_device, operands)))
    if len(expected) != len(got):
        raise Failed(f"{what}{len(got)} results instead of {len(expected)}")
    truth: tuple[torch.Tensor, ...] | None = None
    for place, (one, other) in enumerate(zip(expected, got)):
        name = what if len(got) == 1 else f"{what}result {place}: "
        if other.device.type != "mps":
            raise Failed(f"{name}on {other.device}")
        same = (one.dtype, one.shape) == (other.dtype, other.shape)
        if not same or (strides and one.stride() != other.stride()):
            raise Failed(f"{name}{form(other)} instead of {form(one)}")
        back = other.cpu()
        wrong = difference(back, one)
        if wrong and one.is_floating_point():
            truth = truth if truth is not None else exact(call, operands)
            if truth is not None and len(truth) == len(got) and truth[place].dtype == torch.float64:
                off = difference(back, truth[place].to(one.dtype))
                if off and not as_near_as_the_cpu(back, one, truth[place]):
                    raise Failed(f"{name}from float64: {off}; from the CPU's result: {wrong}")
                wrong = ""
        if wrong:
            raise Failed(name + wrong)


def difference(got: torch.Tensor, wanted: torch.Tensor) -> str:
    """What is wrong with values on the CPU, in words with numbers; empty where they are within what is allowed.
    Shapes and types are the same. NaN is equal to NaN, and infinities to themselves alone."""
    if got.numel() == 0:
        return ""
    shape = f"{str(wanted.dtype)[6:]} {list(wanted.shape)}: "
    if not (wanted.is_floating_point() or wanted.is_complex()):
        unequal = got != wanted
        if not unequal.any():
            return ""
        return shape + _first(unequal, got, wanted) + ", which have to be equal"
    relative, absolute = TOLERANCES.get(wanted.dtype, TOLERANCES[torch.float32])
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    one, other = got.to(wide), wanted.to(wide)
    allowed = absolute + relative * other.abs()
    off = (one - other).abs()
    right = (one == other) | (one.isnan() & other.isnan()) | (other.isfinite() & one.isfinite() & (off <= allowed))
    if right.all():
        return ""
    finite = torch.where(off.isfinite(), off, 0.0)
    worst = int(finite.argmax())
    return (
        f"{shape}{_first(~right, got, wanted)}; largest error {finite.flatten()[worst].item():.3g} where "
        f"{allowed.flatten()[worst].item():.3g} is allowed"
    )


def _first(wrong: torch.Tensor, got: torch.Tensor, wanted: torch.Tensor) -> str:
    place = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{int(wrong.sum())} of {wrong.numel()} elements, first {got[place].item()} instead of {wanted[place].item()} "
        f"at {list(place)}"
    )


def as_near_as_the_cpu(got: torch.Tensor, cpu: torch.Tensor, truth: torch.Tensor) -> bool:
    """At most twice as far from float64 as the CPU, by L2 distance, or nearer than 1e-6 of its length; infinite and NaN
    where the CPU is."""
    one, other = got.double(), cpu.double()
    finite = truth.isfinite() & other.isfinite()
    if not torch.equal(one.isfinite(), other.isfinite()) or not same_bits(one[~finite], other[~finite]):
        return False
    mine, theirs = ((t - truth)[finite].norm().item() for t in (one, other))
    return mine <= max(2 * theirs, 1e-6 * truth[finite].norm().item())


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2 distance from a float64 result."""
    return ((got.detach().cpu().double() - truth).norm() / truth.norm()).item()


def same_bits(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal, with NaN equal to itself."""
    if got.dtype != wanted.dtype or got.shape != wanted.shape:
        return False
    return bool(torch.equal(got, wanted)) or bool(((got == wanted) | (got.isnan() & wanted.isnan())).all())
