"""Shapes and layouts that the sweeps give to every op: none, one, odd, offset, transposed, with gaps, repeated, large."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_SPECIAL = (0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 0.5, 88.0, -88.0, 1e-3, 3.0)


def values(dtype: torch.dtype, *shape: int, special: bool = False) -> torch.Tensor:
    """Values of this type from the CPU's generator: normal ones times two, or whole numbers from -9 to 9 (0 to 9 where
    there is no sign), or truth values. `special` puts infinities, NaN, zeros and large ones first."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(0 if dtype == torch.uint8 else -9, 10, shape).to(dtype)
    drawn = (torch.randn(shape) * 2).to(dtype)
    if special and drawn.numel() > len(_SPECIAL):
        drawn.view(-1)[: len(_SPECIAL)] = torch.tensor(_SPECIAL).to(dtype)
    return drawn


Make = Callable[..., torch.Tensor]


def unary(dtype: torch.dtype, large: bool = True) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """A name and one operand each."""
    yield "no element", (values(dtype, 0),)
    yield "no row", (values(dtype, 3, 0, 5),)
    yield "one element", (values(dtype, 1),)
    yield "no dimension", (values(dtype, 1).reshape(()),)
    yield "odd", (values(dtype, 7, 33, special=True),)
    yield "from an odd offset", (values(dtype, 240)[3:234],)
    yield "transposed", (values(dtype, 33, 7).t(),)
    yield "every second column", (values(dtype, 7, 66)[:, 1::2],)
    yield "repeated rows", (values(dtype, 1, 33).expand(7, 33),)
    if large:
        yield "large", (values(dtype, 70_001),)


def binary(dtype: torch.dtype, large: bool = True) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """A name and two operands each."""
    yield "no element", (values(dtype, 0), values(dtype, 0))
    yield "one element", (values(dtype, 1), values(dtype, 1))
    yield "odd", (values(dtype, 7, 33, special=True), values(dtype, 7, 33))
    yield "rows by columns", (values(dtype, 7, 1), values(dtype, 1, 33))
    yield "by a tensor of no dimension", (values(dtype, 7, 33), values(dtype, 1).reshape(()))
    yield "from odd offsets", (values(dtype, 240)[3:234], values(dtype, 240)[1:232])
    yield "transposed by dense", (values(dtype, 33, 7).t(), values(dtype, 7, 33))
    yield "with gaps", (values(dtype, 7, 66)[:, ::2], values(dtype, 14, 33)[1::2])
    if large:
        yield "large", (values(dtype, 70_001), values(dtype, 70_001))


def ternary(dtype: torch.dtype) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """A name and three operands each."""
    yield "no element", (values(dtype, 0), values(dtype, 0), values(dtype, 0))
    yield "odd", (values(dtype, 7, 33), values(dtype, 7, 33), values(dtype, 7, 33))
    yield "rows, columns, transposed", (values(dtype, 7, 1), values(dtype, 33), values(dtype, 33, 7).t())
    yield "from odd offsets", tuple(values(dtype, 240)[at : at + 231] for at in (3, 1, 2))


def rows(dtype: torch.dtype, large: bool = True) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """Matrices whose last dimension has at least one element: what is reduced along it exists."""
    yield "no row", (values(dtype, 0, 5),)
    yield "one element", (values(dtype, 1, 1),)
    yield "odd", (values(dtype, 7, 33),)
    yield "one long row", (values(dtype, 1, 5001),)
    yield "many short rows", (values(dtype, 300, 3),)
    yield "from an odd offset", (values(dtype, 240)[3:234].view(7, 33),)
    yield "transposed", (values(dtype, 33, 7).t(),)
    yield "every second column", (values(dtype, 7, 66)[:, ::2],)
    if large:
        yield "large", (values(dtype, 257, 300),)
