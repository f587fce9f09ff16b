"""Modules in float64's neighbourhood, their training, and random numbers by their moments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..compare import relative_error
from ..registry import Failed
from .table import Table

Call = Callable[[Any, str, torch.dtype], torch.Tensor]


def model(made: nn.Module, call: Call) -> None:
    """Relative L2 error against float64: at most 1e-5, and at most twice the CPU's own (or 1e-6)."""
    with torch.no_grad():
        truth = call(copy.deepcopy(made).double(), "cpu", torch.float64)
        own = relative_error(call(made, "cpu", torch.float32), truth)
        got = call(copy.deepcopy(made).to("mps"), "mps", torch.float32)
    error, allowed = relative_error(got, truth), min(1e-5, max(2 * own, 1e-6))
    if not error <= allowed:
        raise Failed(f"relative error {error:.1e} where {allowed:.1e} is allowed; the CPU's is {own:.1e}")


def training(made: nn.Module, x: torch.Tensor) -> None:
    """The gradients of one step. `x` has 32 rows once the output's are flattened."""
    here, there = copy.deepcopy(made).train(), copy.deepcopy(made).train().to("mps")
    for m, device in ((here, "cpu"), (there, "mps")):
        F.cross_entropy(m(x.to(device)).reshape(32, -1), torch.arange(32, device=device)).backward()
    for (name, one), two in zip(here.named_parameters(), there.parameters()):
        if one.grad is None or two.grad is None:
            raise Failed(f"{name} has no gradient")
        if not torch.allclose(one.grad, two.grad.cpu(), rtol=1e-4, atol=1e-6):
            off = (one.grad - two.grad.cpu()).abs().max().item()
            raise Failed(f"gradient of {name} is {off:.1e} off, beyond 1e-6 and 1e-4 of its value")


class SelfAttention(nn.Module):
    """`MultiheadAttention` of one input."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = self.attention(x, x, x)[0]
        return attended


def models(case: Table) -> None:
    x = torch.randn(2, 16, 64)

    def on_x(m: Any, device: str, dtype: torch.dtype) -> torch.Tensor:
        result = m(x.to(device, dtype))
        return result[0] if isinstance(result, tuple) else result

    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 9))
    encoder = nn.TransformerEncoder(copy.deepcopy(layer), 3, enable_nested_tensor=False).eval()
    for name, made in {
        "linear": nn.Linear(64, 32),
        "mlp": mlp,
        "encoder layer": copy.deepcopy(layer).eval(),
        "encoder": encoder,
        "encoder layer in training mode": copy.deepcopy(layer).train(),
        "MultiheadAttention": SelfAttention().eval(),
        "LSTM": nn.LSTM(64, 32, batch_first=True),
    }.items():
        case.add(name, lambda made=made: model(made, on_x), "float32")  # type: ignore[misc]
    case.add("training of an encoder layer", lambda: training(layer, x), "float32")


def random_numbers(case: Table) -> None:
    def draws(make: Callable[[], torch.Tensor], mean: float, deviation: float) -> None:
        values = make().float().cpu()
        # Six standard errors of 4,000 draws.
        if not abs(values.mean().item() - mean) <= 6 * deviation / 4000**0.5:
            raise Failed(f"mean {values.mean().item():.4g} instead of {mean:.4g}")
        if not abs(values.std().item() / deviation - 1) <= 0.15:
            raise Failed(f"deviation {values.std().item():.4g} instead of {deviation:.4g}")

    def order() -> None:
        places = torch.randperm(100, device="mps")
        in_order = torch.arange(100)
        if not torch.equal(places.sort().values.cpu(), in_order) or torch.equal(places.cpu(), in_order):
            raise Failed(f"randperm gave {places.tolist()}")

    def again() -> None:
        torch.mps.manual_seed(7)
        first = torch.randn(100, device="mps").cpu()
        torch.mps.manual_seed(7)
        second, third = torch.randn(100, device="mps").cpu(), torch.randn(100, device="mps").cpu()
        if not torch.equal(first, second) or torch.equal(second, third):
            raise Failed("manual_seed does not repeat the numbers, or what follows them repeats itself")

    checks: dict[str, tuple[Callable[[], torch.Tensor], float, float]] = {
        "randn": (lambda: torch.randn(4000, device="mps"), 0.0, 1.0),
        "rand": (lambda: torch.rand(4000, device="mps"), 0.5, 0.2887),
        "randint": (lambda: torch.randint(2, 12, (4000,), device="mps"), 6.5, 2.872),
        "bernoulli": (lambda: torch.full((4000,), 0.3, device="mps").bernoulli(), 0.3, 0.458),
        "dropout": (lambda: F.dropout(torch.ones(4000, device="mps"), 0.25) != 0, 0.75, 0.433),
        "exponential": (lambda: torch.empty(4000, device="mps").exponential_(2.0), 0.5, 0.5),
    }
    for name, (make, mean, deviation) in checks.items():
        case.add(name, lambda m=make, e=mean, d=deviation: draws(m, e, d), "float32")  # type: ignore[misc]
    case.add("randperm", order, "int64")
    case.add("manual_seed", again, "float32")
