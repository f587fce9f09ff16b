"""Element by element."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import Table, on, operands


def pointwise(case: Table) -> None:
    tensors = operands()
    a, b, ints = tensors.a, tensors.b, tensors.ints
    unary = "abs exp log sin cos tanh sigmoid neg sqrt floor round reciprocal erf relu logical_not isnan isfinite isposinf"
    for name in unary.split():
        case(name, getattr(torch, name), a)
    for name in "add sub mul div maximum atan2 eq lt ge pow fmod remainder logical_and".split():
        case(name, getattr(torch, name), a, b)
    for name in "add sub mul div eq pow fmod remainder".split():
        case(f"{name} with a number", getattr(torch, name), a, 2.5)
    many, others = torch.randn(64, 64) * 9, torch.randn(64, 64) * 9
    for dtype in (torch.float16, torch.bfloat16):
        cut = lambda x, y, dtype=dtype: torch.div(x.to(dtype), y, rounding_mode="trunc")  # noqa: E731
        # PyTorch rounds the quotient before it cuts it off, but not where the divisor is one number.
        case(f"div of {dtype}, cut off", cut, many, others.to(dtype))
        case(f"div of {dtype} by one element, cut off", cut, many, others[0, 0].to(dtype))
        case(f"div of {dtype} by a number, cut off", lambda x, cut=cut: cut(x, 0.7), many)
        for name in ("mul", "div"):
            # Such a number is not rounded to the tensor's type first.
            by = lambda x, name=name, dtype=dtype: getattr(x.to(dtype), name)(0.7).view(torch.int16)  # noqa: E731
            case(f"{name} of {dtype} by a number, bit by bit", by, many)
    case("types are promoted", lambda x, y: x + y, ints, torch.randn(7))
    case("alpha", lambda x, y: torch.add(x, y, alpha=2), a, b)
    case("a tensor of one element", lambda x, y: x + y, a, torch.randn(1))
    case("a number first", lambda x: 1 - x, a)
    case("float16", lambda x, y: (x * y).half() + 1, a, b)
    case("strided", lambda x: x.t()[::2] + 1, a)
    case("in place", lambda x: x.clone().mul_(2).add_(x), a)
    case("out=", lambda x, y: torch.add(x, y, out=torch.empty(33, 7, device=x.device).t()), a, b)
    case("where", lambda x, y: torch.where(x > 0, x, y), a, b)
    case("masked_fill", lambda x: x.masked_fill(x > 0, 3.0), a)
    case("clamp", lambda x: x.clamp(-0.5, 0.5), a)
    case("clamp of integers from one side", lambda x: x.clamp_min(0), ints)
    for activation in (F.gelu, F.silu, F.softplus, F.hardswish, F.leaky_relu, F.elu):
        case(activation.__name__, activation, a)
    case("mse_loss", F.mse_loss, a, b)
    case("isin", lambda x: torch.isin(x, on(x, [1, 2])), ints)
