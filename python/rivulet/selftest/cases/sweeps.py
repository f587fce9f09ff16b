"""Every op of a family, in every type that it takes, over shapes and layouts: one case an op and type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .. import compare
from ..registry import Failed
from . import forms
from .forms import FLOATS, INTEGERS, values
from .table import Case, graded

UNARY = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 floor frac "
    "isfinite isinf isnan isneginf isposinf lgamma log log10 log1p log2 logical_not nan_to_num neg rad2deg reciprocal "
    "round rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc"
)
ACTIVATIONS = "celu elu gelu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 selu silu softplus softsign"
BINARY = (
    "add atan2 copysign div eq fmax fmin fmod ge gt heaviside hypot le logaddexp logaddexp2 logical_and logical_or "
    "logical_xor lt maximum minimum mul ne nextafter pow remainder sub xlogy floor_divide"
)
UNARY_INTEGER = "abs bitwise_not logical_not neg sgn sign square"
BINARY_INTEGER = (
    "add bitwise_and bitwise_or bitwise_xor eq ge gt le logical_and logical_or logical_xor lt maximum minimum mul ne sub"
)
DIVISIONS = "div floor_divide fmod remainder gcd lcm bitwise_left_shift bitwise_right_shift"
TRUTHS = "bitwise_and bitwise_or bitwise_xor eq logical_and logical_or logical_xor ne maximum minimum"

Formed = Iterable[tuple[str, tuple[torch.Tensor, ...]]]


def over(call: Callable[..., Any], operands: Callable[[], Formed], seed: int) -> Callable[[], None]:
    """Judges a call for each of the operands; the message names those that are wrong. The strides of results are held to
    the CPU's in the tables; here they are free, since a CPU kernel chooses them by its own layout."""

    def judge() -> None:
        wrong: list[str] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, tensors in operands():
                try:
                    compare.beside_cpu(call, *tensors, what=f"{name}: ", strides=False)
                except Failed as failed:
                    wrong.append(str(failed))
        if wrong:
            more = f"; and {len(wrong) - 2} more forms" if len(wrong) > 2 else ""
            raise Failed("; ".join(wrong[:2]) + more)

    return judge


def _by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    """A second operand without zeros: integer division by zero is an error on the CPU. A shift is between 1 and 7."""
    return lambda x, y: call(x, torch.where(y == 0, 3, y).abs().clamp(1, 7).to(y.dtype))


def _named(names: str, home: Any = torch) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in names.split():
        yield name, getattr(home, name)


#: Family, op, types, call, and what makes the operands of a type.
Entries = Iterator[tuple[str, str, tuple[torch.dtype, ...], Callable[..., Any], Callable[[torch.dtype], Formed]]]


def _entries() -> Entries:
    for name, call in _named(UNARY):
        yield "pointwise", name, FLOATS, call, forms.unary
    for name, call in _named(ACTIVATIONS, F):
        yield "pointwise", name, FLOATS, call, forms.unary
    for name, call in _named("entr erfcx i0 i0e i1 i1e log_ndtr ndtri", torch.special):
        # At infinity the CPU's series are not numbers.
        yield "pointwise", name, FLOATS[:1], lambda x, f=call: f(x.nan_to_num(0.5, 9, -9)), forms.unary
    yield "pointwise", "gelu by tanh", FLOATS, lambda x: F.gelu(x, approximate="tanh"), forms.unary
    for name, call in _named(BINARY):
        yield "pointwise", name, FLOATS, call, forms.binary
    for name, call in _named(UNARY_INTEGER):
        yield "pointwise", name, INTEGERS, call, forms.unary
    for name, call in _named(BINARY_INTEGER):
        yield "pointwise", name, INTEGERS, call, forms.binary
    for name, call in _named(DIVISIONS):
        yield "pointwise", name, INTEGERS, _by_one(call), forms.binary
    for name, call in _named(TRUTHS):
        yield "pointwise", name, (torch.bool,), call, forms.binary
    every = (*FLOATS, *INTEGERS, torch.bool)
    yield "pointwise", "where", every, lambda x, y: torch.where(x.bool() & ~y.bool(), x, y), forms.binary
    yield "pointwise", "addcmul", FLOATS, torch.addcmul, forms.ternary
    yield "pointwise", "addcdiv", FLOATS, torch.addcdiv, forms.ternary
    yield "pointwise", "lerp", FLOATS, torch.lerp, forms.ternary
    yield "pointwise", "clamp by tensors", FLOATS, torch.clamp, forms.ternary
    yield "pointwise", "clamp", (*FLOATS, *INTEGERS), lambda x: x.clamp(1, 5), forms.unary
    yield "pointwise", "add of a number", every[:-1], lambda x: x + 3, forms.unary
    yield "pointwise", "in place", every[:-1], lambda x: x.clone().mul_(2).add_(x), forms.unary
    yield "copies", "clone", every, torch.clone, forms.unary
    yield "copies", "contiguous", every, lambda x: x.contiguous(), forms.unary
    yield "copies", "into a view", every, _into_a_view, forms.unary
    yield "copies", "fill", every, lambda x: torch.full_like(x, 1), forms.unary
    for target in (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool):
        # A float outside of an integer type's range has no value to be held to.
        bounded = lambda x, t=target: (x.nan_to_num(1, 2, 3).abs() if x.is_floating_point() else x).to(t)  # noqa: E731
        yield "copies", f"to {str(target)[6:]}", every, bounded, forms.unary
    yield from _gradients()
    yield from _rows()
    yield from _places()
    yield from _products()


def _gradients() -> Entries:
    """The result too. Float16 sums its gradients in its own order on the CPU, so float32 alone is held to it."""
    one = FLOATS[:1]
    for name in "relu gelu silu tanh sigmoid softplus mish hardsigmoid hardswish hardtanh leaky_relu elu celu selu logsigmoid".split():
        yield "gradients", name, one, graded(getattr(F, name)), _some
    yield "gradients", "gelu by tanh", one, graded(lambda x: F.gelu(x, approximate="tanh")), _some
    for name in ("hardshrink", "softshrink", "relu6", "softsign"):
        yield "gradients", name, one, graded(getattr(F, name)), _some
    yield "gradients", "elu in place", one, graded(lambda x: F.elu(x * 1, inplace=True)), _some
    yield "gradients", "threshold", one, graded(lambda x: F.threshold(x, 0.5, 2.0)), _some
    yield "gradients", "glu", one, graded(lambda x: F.glu(torch.cat([x, x * 2], 0), 0)), _some_rows
    yield "gradients", "layer_norm", one, graded(lambda x: F.layer_norm(x, x.shape[-1:]) * 3), _at_least_two
    yield "gradients", "softmax", one, graded(lambda x: x.softmax(-1)), _some_rows
    yield "gradients", "log_softmax", one, graded(lambda x: x.log_softmax(-1)), _some_rows
    yield "gradients", "embedding", one, graded(_embed), _some_rows
    yield "gradients", "embedding by frequency", one, graded(lambda x: _embed(x, True)), _some_rows
    for name in ("mse_loss", "smooth_l1_loss", "huber_loss"):
        yield "gradients", name, one, graded(lambda x, y, f=name: getattr(F, f)(x, y.sign())), _some_pairs
    for name, call in _named("xlog1py", torch.special):
        yield "pointwise", name, FLOATS, lambda x, y, f=call: f(x, y.abs()), forms.binary
    for name in ("igamma", "igammac"):
        positive = lambda x, y, f=name: getattr(torch, f)(*(v.nan_to_num(1, 9, 9).abs() + 0.1 for v in (x, y)))  # noqa: E731
        yield "pointwise", name, one, positive, forms.binary
    yield "pointwise", "ldexp", one, lambda x, y: torch.ldexp(x, y.round()), forms.binary
    yield "pointwise", "isfinite of sums", FLOATS, lambda x: torch.isfinite(x + x) | torch.isnan(x * 2), forms.unary


def _embed(x: torch.Tensor, by_frequency: bool = False) -> torch.Tensor:
    places = torch.arange(9, device=x.device) * 5 % len(x)
    return F.embedding(places, x, scale_grad_by_freq=by_frequency)


def _some(dtype: torch.dtype) -> Formed:
    """Finite values: what a gradient does at infinity is nobody's contract."""
    for name, (x,) in forms.unary(dtype):
        if x.numel() > 1:
            yield name, (x.nan_to_num(0.25, 3, -3),)


def _some_pairs(dtype: torch.dtype) -> Formed:
    for name, (x, y) in forms.binary(dtype, large=False):
        if x.shape == y.shape and x.numel() > 1:
            yield name, (x.nan_to_num(0.25, 3, -3), y)


def _into_a_view(x: torch.Tensor) -> torch.Tensor:
    target = torch.zeros(*x.shape, 3, dtype=x.dtype, device=x.device)
    target[..., 1].copy_(x)
    return target


def _rows() -> Entries:
    numbers = (*FLOATS, torch.int64, torch.int32)
    for name in ("sum", "amax", "amin", "argmax", "argmin", "cumsum", "cummax"):
        yield "reductions", name, numbers, lambda x, n=name: getattr(x, n)(-1), forms.rows
    for name in ("mean", "var", "std", "norm", "logsumexp"):
        dims: Any = {"dim": -1}
        yield "reductions", name, FLOATS, lambda x, n=name, d=dims: getattr(x, n)(**d), _at_least_two
    yield "reductions", "prod", FLOATS, lambda x: x.prod(-1), _around_one
    yield "reductions", "cumprod", FLOATS, lambda x: x.cumprod(-1), _around_one
    yield "reductions", "sum of columns", numbers, lambda x: x.sum(0), forms.rows
    yield "reductions", "sum of all", numbers, torch.sum, forms.rows
    yield "reductions", "any", (*numbers, torch.bool), lambda x: x.any(-1), forms.rows
    yield "reductions", "all", (*numbers, torch.bool), lambda x: x.all(-1), forms.rows
    yield "rows", "softmax", FLOATS, lambda x: x.softmax(-1), forms.rows
    yield "rows", "softmax of columns", FLOATS, lambda x: x.softmax(0), _some_rows
    yield "rows", "log_softmax", FLOATS, lambda x: x.log_softmax(-1), forms.rows
    yield "rows", "layer_norm", FLOATS, lambda x: F.layer_norm(x, x.shape[-1:]), forms.rows
    yield "rows", "rms_norm", FLOATS, lambda x: F.rms_norm(x, x.shape[-1:]), forms.rows
    yield "rows", "group_norm", FLOATS, lambda x: F.group_norm(x, 1), _at_least_two
    yield "orders", "sort", numbers, lambda x: tuple(x.sort(dim=-1, stable=True)), forms.rows
    yield "orders", "topk", numbers, lambda x: x.topk(1, -1).values, forms.rows


def _around_one(dtype: torch.dtype) -> Formed:
    """Products of many of the usual values leave every type's range. Mapped here, since a product of values that the
    device has rounded once more is another product."""
    for name, (x,) in forms.rows(dtype):
        yield name, (x * 0.02 + 1,)


def _some_rows(dtype: torch.dtype) -> Formed:
    return ((name, tensors) for name, tensors in forms.rows(dtype) if tensors[0].shape[0] > 0)


def _at_least_two(dtype: torch.dtype) -> Formed:
    """A variance of one element is not a number, with a warning."""
    return ((name, tensors) for name, tensors in _some_rows(dtype) if tensors[0].shape[-1] > 1)


def _places() -> Entries:
    every = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool)

    def places(x: torch.Tensor, size: int, count: int) -> torch.Tensor:
        return (torch.arange(count, device=x.device) * 7 + 3) % size

    yield "places", "gather", every, lambda x: x.gather(1, places(x, x.shape[1], 4).expand(len(x), 4)), forms.rows
    yield "places", "index_select", every, lambda x: x.index_select(1, places(x, x.shape[1], 5)), forms.rows
    yield "places", "index", every, lambda x: x[:, places(x, x.shape[1], 3)], forms.rows
    yield "places", "embedding", FLOATS, lambda x: F.embedding(places(x, len(x), 6), x), _some_rows
    yield "places", "index_fill", every, lambda x: x.index_fill(1, places(x, x.shape[1], 2), 1), forms.rows
    yield "places", "scatter", every, _scatter, forms.rows
    yield "places", "scatter_add", (*FLOATS, torch.int64, torch.int32), _scatter_add, forms.rows
    yield "places", "cat", every, lambda x: torch.cat([x, x], -1), forms.rows
    yield "places", "flip", every, lambda x: x.flip(0, 1), forms.rows
    yield "places", "roll", every, lambda x: x.roll(2, 1), forms.rows
    yield "places", "tril", every, torch.tril, forms.rows
    yield "places", "pad", every, lambda x: F.pad(x, (1, 2), value=1), forms.rows
    yield "places", "repeat", every, lambda x: x.repeat(2, 3), forms.rows


def _scatter(x: torch.Tensor) -> torch.Tensor:
    size = min(3, x.shape[1])
    index = torch.arange(size, device=x.device).flip(0).expand(len(x), size)
    return torch.zeros_like(x).scatter(1, index, x[:, :size])


def _scatter_add(x: torch.Tensor) -> torch.Tensor:
    # No place twice in float16: sums by atomics have no order.
    return torch.ones_like(x).scatter_add(1, torch.arange(x.shape[1], device=x.device).flip(0).expand(x.shape), x)


def _products() -> Entries:
    def pairs(dtype: torch.dtype) -> Formed:
        for n, k, m in ((1, 1, 1), (7, 33, 5), (33, 64, 17), (65, 130, 70), (1, 257, 40), (128, 128, 128), (5, 0, 3)):
            yield f"[{n}, {k}] x [{k}, {m}]", (values(dtype, n, k), values(dtype, k, m))
        yield "few results of long rows", (values(dtype, 4, 6000), values(dtype, 6000, 8))
        yield "transposed", (values(dtype, 40, 24).t(), values(dtype, 33, 40).t())
        yield "from odd offsets", (values(dtype, 600)[3:591].view(21, 28), values(dtype, 600)[1:589].view(28, 21))

    def batches(dtype: torch.dtype) -> Formed:
        for b, n, k, m in ((1, 1, 1, 1), (3, 7, 33, 5), (4, 64, 32, 64), (2, 65, 66, 67), (0, 3, 4, 5)):
            yield f"{b} of [{n}, {k}] x [{k}, {m}]", (values(dtype, b, n, k), values(dtype, b, k, m))
        yield "transposed", (values(dtype, 3, 33, 20).mT, values(dtype, 24, 33, 3).permute(2, 1, 0))

    def linears(dtype: torch.dtype) -> Formed:
        for n, k, m in ((1, 1, 1), (1, 256, 128), (3, 33, 65), (32, 256, 128), (70, 129, 257)):
            yield f"{n} rows, {k} to {m}", (values(dtype, n, k), values(dtype, m, k), values(dtype, m))
        yield "three dimensions", (values(dtype, 2, 9, 40), values(dtype, 24, 40), values(dtype, 24))

    def heads(dtype: torch.dtype) -> Formed:
        for b, h, n, m, d in ((1, 1, 1, 1, 8), (2, 4, 9, 9, 16), (1, 2, 33, 65, 64), (1, 1, 5, 70, 96), (1, 2, 17, 17, 128)):
            q, k, v = values(dtype, b, h, n, d), values(dtype, b, h, m, d), values(dtype, b, h, m, d)
            yield f"{b} x {h} heads of {d}, {n} to {m}", (q, k, v)
        packed = values(dtype, 2, 12, 3, 4, 32).permute(2, 0, 3, 1, 4)
        yield "packed", tuple(packed)

    def images(dtype: torch.dtype) -> Formed:
        for n, c, o, size in ((1, 1, 1, 3), (2, 3, 4, 9), (1, 16, 33, 12)):
            yield f"{n} of {c} to {o} channels, {size}", (values(dtype, n, c, size, size), values(dtype, o, c, 3, 3))

    attend = F.scaled_dot_product_attention
    whole = (torch.int64, torch.int32)
    yield "products", "mm", (*FLOATS, *whole), torch.mm, pairs
    yield "products", "bmm", (*FLOATS, *whole), torch.bmm, batches
    yield "products", "linear", FLOATS, F.linear, linears
    yield "products", "linear and gelu", FLOATS, lambda x, w, b: F.gelu(F.linear(x, w, b)), linears
    yield "products", "addmm", FLOATS, lambda x, w, b: torch.addmm(b, x.flatten(0, -2), w.t(), beta=0.5, alpha=2), linears
    yield "products", "mv", FLOATS, lambda x, y: x @ y[:, 0], pairs
    yield "attention", "attention", FLOATS, attend, heads
    yield "attention", "causal attention", FLOATS, lambda q, k, v: attend(q, q, q, is_causal=True), heads
    mask = lambda q, k, v: attend(q, k, v, (k.sum(-1) > -1)[..., None, :] | (q.sum(-1) > 0)[..., None])  # noqa: E731
    yield "attention", "masked attention", FLOATS, mask, heads
    yield "convolutions", "conv2d", FLOATS, F.conv2d, images
    yield "convolutions", "conv2d with stride", FLOATS, lambda x, w: F.conv2d(x, w, stride=2, padding=1), images
    yield "convolutions", "conv_transpose2d", FLOATS, lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1)), images


def sweeps(seed: int = 0) -> list[tuple[str, Case]]:
    """Family and case of every op and type, float32 of all first."""
    order = {dtype: place for place, dtype in enumerate((*FLOATS, *INTEGERS, torch.bool))}
    found: list[tuple[int, str, Case]] = []
    for family, op, dtypes, call, operands in _entries():
        for dtype in dtypes:
            name = str(dtype)[6:]
            judge = over(call, lambda make=operands, dtype=dtype: make(dtype), seed)  # type: ignore[misc]
            found.append((order[dtype], family, Case(f"{op} {name}", judge, name)))
    found.sort(key=lambda entry: entry[0])
    return [(family, case) for _, family, case in found]


