"""What a table of cases is made of, and the operands that the tables share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .. import compare


@dataclass(frozen=True)
class Case:
    """One call that has to give on mps what it gives on the CPU."""

    name: str
    judge: Callable[[], None]
    """Makes the calls; raises :class:`~rivulet.selftest.registry.Failed` where the results are not right."""
    dtype: str = ""
    """Element type of the first operand, for the report's table."""


class Table:
    """Collects cases: ``case("exp", torch.exp, x)``."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self._names: dict[str, int] = {}

    def __call__(self, name: str, call: Callable[..., Any], *operands: Any) -> None:
        """A call whose results are compared in form (strides too) and value. Operands are on the CPU and are not changed."""
        first = next((x for x in operands if isinstance(x, torch.Tensor)), None)
        dtype = "" if first is None else str(first.dtype)[6:]
        self.add(name, lambda: compare.beside_cpu(call, *operands), dtype)

    def add(self, name: str, judge: Callable[[], None], dtype: str = "") -> None:
        """A case that judges by itself. One whose name is taken gets a number behind it."""
        taken = self._names.get(name, 0) + 1
        self._names[name] = taken
        self.cases.append(Case(name if taken == 1 else f"{name} ({taken})", judge, dtype))


class Operands(NamedTuple):
    """Tensors that many cases take."""

    a: torch.Tensor
    b: torch.Tensor
    """Like `a`: [7, 33] of float32."""
    weight: torch.Tensor
    bias: torch.Tensor
    """[5, 33] and [5]."""
    ints: torch.Tensor
    """[3, 7] of int64, from -10 to 10."""
    heads: torch.Tensor
    """[2, 4, 9, 16]."""


def operands() -> Operands:
    """New ones, from the CPU's generator."""
    a, b = torch.randn(7, 33), torch.randn(7, 33)
    weight, bias = torch.randn(5, 33), torch.randn(5)
    return Operands(a, b, weight, bias, torch.arange(-10, 11).reshape(3, 7), torch.randn(2, 4, 9, 16))


def on(x: torch.Tensor, *values: Any, **options: Any) -> torch.Tensor:
    """A tensor of these values where `x` is."""
    return torch.tensor(*values, device=x.device, **options)


def graded(call: Callable[..., Any]) -> Callable[..., Any]:
    """The result of a call and the gradients of its operands."""

    def run(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in given]
        result = call(*leaves)
        (result * result).sum().backward()
        return (result.detach(), *(x.grad for x in leaves))

    return run
