"""Run by test_native.py in a process of its own: ops and models on an adapter with kernels, beside the CPU.

Every case must give what the CPU gives, in the same form, and no op may fall back to the CPU. Prints what is wrong, a
line each, and "ok" at the end.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

import rivulet
import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch.set_num_threads(1)

WRONG: list[str] = []


def to_mps(value: Any) -> Any:
    return value.to("mps") if isinstance(value, torch.Tensor) else value


def check(name: str, call: Callable[..., Any], *operands: Any, native: bool = True) -> None:
    rivulet.reset_fallback_counts()
    try:
        expected, got = call(*operands), call(*map(to_mps, operands))
        pairs = zip(expected, got) if isinstance(expected, tuple) else [(expected, got)]
        for one, other in pairs:
            form = [(t.dtype, t.shape, t.stride()) for t in (one, other)]
            assert other.device.type == "mps" and form[0] == form[1], f"{form[1]} on {other.device}, wanted {form[0]}"
            torch.testing.assert_close(other.cpu(), one, equal_nan=True)
        assert not (native and rivulet.fallback_counts()), f"fell back: {rivulet.fallback_counts()}"
    except Exception as error:
        WRONG.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def on(x: torch.Tensor, *values: Any, **options: Any) -> torch.Tensor:
    return torch.tensor(*values, device=x.device, **options)


A, B = torch.randn(7, 33), torch.randn(7, 33)
WEIGHT, BIAS = torch.randn(5, 33), torch.randn(5)
INTS = torch.arange(-10, 11).reshape(3, 7)
HEADS = torch.randn(2, 4, 9, 16)


def pointwise() -> None:
    unary = "abs exp log sin cos tanh sigmoid neg sqrt floor round reciprocal erf relu logical_not isnan isfinite isposinf"
    for name in unary.split():
        check(name, getattr(torch, name), A)
    for name in "add sub mul div maximum atan2 eq lt ge pow fmod remainder logical_and".split():
        check(name, getattr(torch, name), A, B)
    for name in "add sub mul div eq pow fmod remainder".split():
        check(f"{name} with a number", getattr(torch, name), A, 2.5)
    many, others = torch.randn(64, 64) * 9, torch.randn(64, 64) * 9
    for dtype in (torch.float16, torch.bfloat16):
        cut = lambda x, y, dtype=dtype: torch.div(x.to(dtype), y, rounding_mode="trunc")  # noqa: E731
        # PyTorch rounds the quotient before it cuts it off, but not where the divisor is one number.
        check(f"div of {dtype}, cut off", cut, many, others.to(dtype))
        check(f"div of {dtype} by one element, cut off", cut, many, others[0, 0].to(dtype))
        check(f"div of {dtype} by a number, cut off", lambda x, cut=cut: cut(x, 0.7), many)
        for name in ("mul", "div"):
            # Such a number is not rounded to the tensor's type first.
            by = lambda x, name=name, dtype=dtype: getattr(x.to(dtype), name)(0.7).view(torch.int16)  # noqa: E731
            check(f"{name} of {dtype} by a number, bit by bit", by, many)
    check("types are promoted", lambda x, y: x + y, INTS, torch.randn(7))
    check("alpha", lambda x, y: torch.add(x, y, alpha=2), A, B)
    check("a tensor of one element", lambda x, y: x + y, A, torch.randn(1))
    check("a number first", lambda x: 1 - x, A)
    check("float16", lambda x, y: (x * y).half() + 1, A, B)
    check("strided", lambda x: x.t()[::2] + 1, A)
    check("in place", lambda x: x.clone().mul_(2).add_(x), A)
    check("out=", lambda x, y: torch.add(x, y, out=torch.empty(33, 7, device=x.device).t()), A, B)
    check("where", lambda x, y: torch.where(x > 0, x, y), A, B)
    check("masked_fill", lambda x: x.masked_fill(x > 0, 3.0), A)
    check("clamp", lambda x: x.clamp(-0.5, 0.5), A)
    check("clamp of integers from one side", lambda x: x.clamp_min(0), INTS)
    for activation in (F.gelu, F.silu, F.softplus, F.hardswish, F.leaky_relu, F.elu):
        check(activation.__name__, activation, A)
    check("mse_loss", F.mse_loss, A, B)
    check("isin", lambda x: torch.isin(x, on(x, [1, 2])), INTS)


def reductions() -> None:
    for name in "sum mean argmax max std var nansum any all".split():
        check(f"{name} of all", getattr(torch, name), A)
        check(f"{name} along a dimension", lambda x, name=name: getattr(x, name)(0), A) if name != "max" else None
    check("keepdim", lambda x: x.sum(1, keepdim=True), A)
    check("amax", lambda x: x.amax(0), A)
    check("max with places", lambda x: tuple(x.max(1)), A)
    check("norm", lambda x: x.norm(), A)
    check("norm along a dimension", lambda x: x.norm(dim=1), A)
    check("norm of order 3", lambda x: x.norm(3, dim=1), A)
    check("norm of all of order 1.5", lambda x: x.norm(1.5), A)
    check("cdist", torch.cdist, A, B[:5])
    check("cumsum", lambda x: x.cumsum(1), A)
    check("cummax", lambda x: tuple(x.cummax(1)), A)
    check("logsumexp", lambda x: x.logsumexp(1), A)
    check("sum of integers", torch.sum, INTS)
    check("sum of truth values", lambda x: (x > 0).sum(), A)
    for dim in (0, 1):
        check(f"softmax {dim}", lambda x, dim=dim: x.softmax(dim), A)
        check(f"log_softmax {dim}", lambda x, dim=dim: x.log_softmax(dim), A)
    check("layer_norm", lambda x, w: F.layer_norm(x, (33,), w, w), A, torch.randn(33))
    check("layer_norm of a view", lambda x: F.layer_norm(x.t(), (7,)), A)
    check("group_norm", lambda x: F.group_norm(x, 3), torch.randn(2, 6, 5))
    check("rms_norm", lambda x: F.rms_norm(x, (33,)), A)
    check("topk", lambda x: tuple(x.topk(3)), A)
    check("sort", lambda x: tuple(x.sort(1)), A)
    ties = torch.tensor([0.0, -0.0, float("nan"), 1.0, -1.0, float("inf")]).repeat(300)
    for x in (ties, ties.half(), ties.bfloat16(), ties > 0, (ties > 0).int(), (ties > 0).long(), ties[:12]):
        for descending in (False, True):
            order = lambda x, d=descending: tuple(x.sort(dim=0, descending=d, stable=True))  # noqa: E731
            check(f"stable sort of {len(x)} {x.dtype}", order, x)
    check("cross_entropy", lambda x: F.cross_entropy(x, on(x, [1] * 7)), A)


def products() -> None:
    check("mm", lambda x, y: x @ y.t(), A, B)
    check("linear", F.linear, A, WEIGHT, BIAS)
    check("linear of three dimensions", F.linear, torch.randn(2, 7, 33), WEIGHT, BIAS)
    check("bmm", torch.bmm, torch.randn(3, 4, 5), torch.randn(3, 5, 6))
    check("matmul", torch.matmul, torch.randn(2, 3, 4, 5), torch.randn(5, 6))
    check("addmm", lambda x, y: torch.addmm(x[:, :7], x, y.t(), beta=0.5, alpha=2), A, B)
    check("baddbmm", torch.baddbmm, torch.randn(3, 4, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6))
    check("mv", torch.mv, A, torch.randn(33))
    check("dot", torch.dot, A[0], B[0])
    check("einsum", lambda x, y: torch.einsum("ij,kj->ik", x, y), A, B)
    check("bfloat16", lambda x, y: x.bfloat16() @ y.bfloat16().t(), A, B)
    check("integers", lambda x: x @ x.t(), INTS)
    check("bytes wrap", lambda x: x.to(torch.uint8) @ x.t().to(torch.uint8), INTS)
    check("batches of integers", lambda x: torch.bmm(x[None], x.t()[None]).int(), INTS)
    check("addmm of integers", lambda x: torch.addmm(x[:, :3], x, x.t(), beta=2, alpha=3), INTS)
    check("addbmm", torch.addbmm, torch.randn(4, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6))
    check("vdot", torch.vdot, A[0], B[0])
    check("addr", lambda x, y: torch.addr(x[:, :7], x[:, 0], y[:, 0], beta=0.5), A, B)
    check("conv1d", F.conv1d, torch.randn(2, 3, 10), torch.randn(4, 3, 3))
    check("conv2d", F.conv2d, torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
    check("attention", F.scaled_dot_product_attention, HEADS, HEADS + 1, HEADS * 2)
    check("causal attention", lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), HEADS)
    mask = torch.randn(9, 9).fill_diagonal_(1)
    check("masked attention", lambda q, m: F.scaled_dot_product_attention(q, q, q, m > 0), HEADS, mask)


def shapes_and_places() -> None:
    check("cat", lambda x, y: torch.cat([x, y, x], 0), A, B)
    check("cat of results", lambda x: torch.cat([x * 2, x + 1], 1), A)
    check("cat of types", lambda x: torch.cat([x, x.half()]), A)
    check("stack", lambda x, y: torch.stack([x, y]), A, B)
    check("flip", lambda x: x.flip(0, 1), A)
    check("roll", lambda x: (x * 1).roll(3, 1), A)
    check("repeat", lambda x: x.repeat(2, 2), A)
    check("pad", lambda x: F.pad(x, (1, 2)), A)
    for mode in ("reflect", "replicate"):
        check(f"pad by {mode}", lambda x, mode=mode: F.pad(x, (1, 2), mode=mode), A)
    check("contiguous", lambda x: x.t().contiguous(), torch.randn(80, 80))
    check("tril", torch.tril, A)
    check("triu", torch.triu, A)
    check("gather", lambda x: x.gather(1, on(x, [[1, 2]] * 7)), A)
    check("index_select", lambda x: x.index_select(1, on(x, [3, 1])), A)
    check("embedding", lambda w: F.embedding(on(w, [[1, 2], [0, 5]]), w), A)
    check("index", lambda x: x[on(x, [1, -2])], A)
    check("two indices", lambda x: x[on(x, [1, 2]), on(x, [0, -1])], A)
    check("indices on the CPU", lambda x: x[torch.tensor([1, 2])], A)
    check("index_put", lambda x: x.clone().index_put_((on(x, [1, 2]),), on(x, 5.0)), A)
    check("scatter", lambda x: x.clone().scatter_(1, on(x, [[1, 2]] * 7), 9.0), A)
    check("scatter_add", lambda x, y: x.clone().scatter_add_(1, on(x, [[1, 2]] * 7), y), A, B)
    check("one_hot", lambda x: F.one_hot(x.clamp(0), 11), INTS)
    check("arange", lambda x: torch.arange(3, 17, 2, device=x.device), A)
    check("linspace", lambda x: torch.linspace(0, 1, 11, device=x.device), A)
    check("full", lambda x: torch.full((2, 3), 7, device=x.device), A)
    check("eye", lambda x: torch.eye(4, device=x.device), A)
    check("to int32", lambda x: (x * 10).to(torch.int32), A)
    check("to bool", lambda x: x.bool(), INTS)


def graded(call: Callable[..., Any]) -> Callable[..., Any]:
    """The result of a call and the gradients of its operands."""

    def run(*operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in operands]
        result = call(*leaves)
        (result * result).sum().backward()
        return (result.detach(), *(x.grad for x in leaves))

    return run


def gradients() -> None:
    for name in "elu selu celu glu logsigmoid leaky_relu softplus mish hardswish hardtanh softsign".split():
        check(name, graded(getattr(F, name)), torch.randn(7, 32))
    check("prelu", graded(F.prelu), torch.randn(2, 3, 5), torch.rand(3))
    check("logit", graded(lambda x: torch.logit(x.sigmoid(), 0.2)), A)
    for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss):
        for reduction in ("mean", "sum", "none"):
            check(f"{loss.__name__} {reduction}", graded(lambda x, y, f=loss, r=reduction: f(x, y, reduction=r)), A, B)
    check("binary_cross_entropy", graded(F.binary_cross_entropy), torch.rand(7, 33), torch.rand(7, 33))
    check("with logits", graded(F.binary_cross_entropy_with_logits), A, torch.rand(7, 33))
    check("polygamma", lambda x: torch.polygamma(2, x.abs() + 1), A)
    check("zeta", lambda x, y: torch.special.zeta(x.abs() + 2, y.abs() + 1), A, B)
    check("round to decimals", lambda x: torch.round(x, decimals=2), A)
    check("renorm", lambda x: x.renorm(2, 0, 3.0), A)
    check("aminmax", lambda x: tuple(x.aminmax(dim=1)), A)
    check("cross", graded(torch.linalg.cross), torch.randn(4, 3), torch.randn(4, 3))
    check("unfold", graded(lambda x: x.unfold(1, 5, 2)), A)
    check("trace", torch.trace, A)
    check("count_nonzero", lambda x: torch.count_nonzero(x.relu(), 1), A)
    check("median", torch.median, A)
    check("nanmedian", lambda x: torch.nanmedian(x.log()), A)
    batch, vectors = torch.randn(4, 3, 5, 6), (torch.rand(3), torch.randn(3))
    for train in (False, True):

        def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, train: bool = train) -> torch.Tensor:
            mean, variance = torch.full_like(weight.detach(), 0.5), torch.ones_like(weight.detach())
            made = F.batch_norm(x, mean, variance, weight, bias, train, 0.3)
            return torch.cat([made.flatten(), mean, variance])

        check(f"batch_norm, training {train}", graded(norm), batch, *vectors)
    check("batch_norm of rows", graded(lambda x: F.batch_norm(x, None, None, training=True)), A)
    check("instance_norm", graded(F.instance_norm), batch)
    half = batch.bfloat16()
    check("batch_norm of bfloat16", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), half, *vectors)


def images() -> None:
    line, image, solid = torch.randn(2, 3, 11), torch.randn(2, 3, 9, 10), torch.randn(2, 3, 5, 6, 7)
    check("max_pool1d", graded(lambda x: F.max_pool1d(x, 3, 2)), line)
    check("max_pool2d", graded(lambda x: F.max_pool2d(x, 3, 2, 1)), image)
    check("max_pool2d, dilated", graded(lambda x: F.max_pool2d(x, 2, 3, 1, 2, ceil_mode=True)), image)
    check("max_pool3d", graded(lambda x: F.max_pool3d(x, 2)), solid)
    check("places of maxima", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), image)
    ties = image.round().where(image < 1, torch.nan)
    check("places among equals and NaNs", lambda x: F.max_pool2d(x, 3, 1, 1, return_indices=True), ties)
    check("max_pool2d of integers", lambda x: F.max_pool2d(x.int(), 2), image * 9)
    check("max_unpool2d", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), image)
    check("avg_pool1d", graded(lambda x: F.avg_pool1d(x, 3, 2)), line)
    check("avg_pool2d", graded(lambda x: F.avg_pool2d(x, 3, 2, 1)), image)
    for options in ({"count_include_pad": False}, {"divisor_override": 5}):
        check(f"avg_pool2d {options}", graded(lambda x, o=options: F.avg_pool2d(x, 3, 2, 1, True, **o)), image)
    for size in (1, 3, (4, 7), (12, 13)):
        check(f"adaptive_avg_pool2d {size}", graded(lambda x, size=size: F.adaptive_avg_pool2d(x, size)), image)
        check(f"adaptive_max_pool2d {size}", graded(lambda x, size=size: F.adaptive_max_pool2d(x, size)), image)
    check("adaptive_avg_pool1d", graded(lambda x: F.adaptive_avg_pool1d(x, 4)), line)
    last = image.to(memory_format=torch.channels_last)
    check("channels last", lambda x: F.max_pool2d(x, 3) + F.avg_pool2d(x, 3), last)
    check("sum of channels last", lambda x: x + x, last)
    check("float16", lambda x: F.max_pool2d(x.half(), 2, 1) + F.avg_pool2d(x.half(), 2, 1), image)
    for mode in ("nearest", "nearest-exact", "bilinear"):
        for size in ((5, 23), (18, 20)):
            check(f"{mode} {size}", graded(lambda x, s=size, m=mode: F.interpolate(x, s, mode=m)), image)
        check(f"{mode} by a factor", graded(lambda x, m=mode: F.interpolate(x, scale_factor=1.7, mode=m)), image)
    check("aligned", graded(lambda x: F.interpolate(x, (4, 25), mode="bilinear", align_corners=True)), image)
    check("linear", graded(lambda x: F.interpolate(x, 25, mode="linear")), line)
    check("trilinear", graded(lambda x: F.interpolate(x, (9, 3, 10), mode="trilinear")), solid)
    check("columns", graded(lambda x: F.unfold(x, (3, 2), 2, 1, 2)), image)
    check("image of columns", graded(lambda x: F.fold(x, (9, 10), 3, padding=1, stride=2)), torch.randn(2, 27, 25))
    check("pixel_shuffle", lambda x: F.pixel_shuffle(x, 3), torch.randn(2, 18, 4, 5))
    check("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 5), torch.randn(2, 3, 10, 15))
    check("channel_shuffle", lambda x: F.channel_shuffle(x, 3), torch.randn(2, 6, 4, 5))

    def small() -> torch.nn.Module:
        nn = torch.nn
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2)
        return nn.Sequential(
            first, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), second, nn.BatchNorm2d(16), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 32),
        )  # fmt: skip

    training(small(), torch.randn(32, 3, 12, 12))


def places() -> None:
    index = [4, 0, 4]
    check("index_add", lambda x, y: x.index_add(0, on(x, index), y[:3], alpha=2), A, B)
    check("index_add of integers", lambda x: x.index_add(1, on(x, [1, 1]), x[:, :2]), INTS)
    check("index_copy", lambda x, y: x.index_copy(1, on(x, [4, 0]), y[:, :2]), A, B)
    check("index_fill", lambda x: x.index_fill(1, on(x, index), 2.5), A)
    for kind in ("prod", "mean", "amax", "amin"):
        for whole in (False, True):
            check(
                f"index_reduce {kind} {whole}",
                lambda x, y, k=kind, w=whole: x.index_reduce(0, on(x, index), y[:3], k, include_self=w), A, B,
            )  # fmt: skip
    check("put", lambda x: x.clone().put_(on(x, [1, -2]), on(x, [5.0, 6.0])), A)
    check("take", lambda x: x.take(on(x, [[1, -2], [70, 0]])), A)
    check("nonzero", lambda x: x.relu().nonzero(), A)
    check("nonzero of a vector", lambda x: x[0].gt(0).nonzero(), A)
    check("nothing is nonzero", lambda x: x.gt(99).nonzero(), A)
    check("masked_select", lambda x, y: x.masked_select(y > 0), A, B)
    check("index by a mask", lambda x: x[x > 0], A)
    check("put by a mask", lambda x: x.clone().index_put_((x > 0,), on(x, 3.0)), A)
    check("masked_scatter", lambda x, y: x.masked_scatter(x > 0, y), A, B)
    check("searchsorted", lambda x, y: torch.searchsorted(x.sort().values, y), A, B)
    check("searchsorted, right", lambda x, y: torch.searchsorted(x.sort().values, y.log(), right=True), A, B)
    check("searchsorted by an order", lambda x, y: torch.searchsorted(x, y, sorter=x.argsort(1)), A, B)
    check("bucketize", lambda x: torch.bucketize(x, on(x, [-4, 0, 3]), out_int32=True), INTS)
    for x in (INTS % 3, INTS[0, :1], INTS[0, :2], INTS[:1] // 4):
        both = {"return_inverse": True, "return_counts": True}
        check(f"unique of {x.numel()}", lambda x, options=both: torch.unique(x, **options), x)
    check("bincount", lambda x: torch.bincount(x.flatten().abs(), minlength=15), INTS)
    check("repeat_interleave", lambda x: x.repeat_interleave(on(x, [2, 0, 1, 1, 0, 0, 3]), 0), A)


def random_numbers() -> None:
    rivulet.reset_fallback_counts()
    checks = {
        "randn": (torch.randn(4000, device="mps"), 0.0, 1.0),
        "rand": (torch.rand(4000, device="mps"), 0.5, 0.2887),
        "randint": (torch.randint(2, 12, (4000,), device="mps").float(), 6.5, 2.872),
        "bernoulli": (torch.full((4000,), 0.3, device="mps").bernoulli(), 0.3, 0.458),
        "dropout": ((F.dropout(torch.ones(4000, device="mps"), 0.25) != 0).float(), 0.75, 0.433),
        "exponential": (torch.empty(4000, device="mps").exponential_(2.0), 0.5, 0.5),
    }
    for name, (values, mean, deviation) in checks.items():
        # Six standard errors of 4,000 draws.
        if abs(values.mean().item() - mean) > 6 * deviation / 4000**0.5:
            WRONG.append(f"{name}: mean {values.mean().item()}, wanted {mean}")
        if abs(values.std().item() / deviation - 1) > 0.15:
            WRONG.append(f"{name}: deviation {values.std().item()}, wanted {deviation}")
    order = torch.randperm(100, device="mps")
    if not torch.equal(order.sort().values.cpu(), torch.arange(100)) or torch.equal(order.cpu(), torch.arange(100)):
        WRONG.append(f"randperm: {order.tolist()}")
    if rivulet.fallback_counts():
        WRONG.append(f"random numbers fell back: {rivulet.fallback_counts()}")


def model(name: str, made: torch.nn.Module, call: Callable[[Any, str, torch.dtype], torch.Tensor]) -> None:
    """Relative L2 error against float64: at most 1e-5 and at most twice the CPU's own."""
    with torch.no_grad():
        truth = call(copy.deepcopy(made).double(), "cpu", torch.float64)
        on_cpu = call(made, "cpu", torch.float32).double()
        there = copy.deepcopy(made).to("mps")
        rivulet.reset_fallback_counts()
        got = call(there, "mps", torch.float32)
        fell_back = rivulet.fallback_counts()
        error, own = (((t.cpu().double() - truth).norm() / truth.norm()).item() for t in (got, on_cpu))
    if not error <= min(1e-5, max(2 * own, 1e-6)) or fell_back:
        WRONG.append(f"{name}: error {error:.1e}, the CPU's {own:.1e}, fell back: {fell_back}")


def models() -> None:
    nn = torch.nn
    x = torch.randn(2, 16, 64)

    def on_x(m: Any, device: str, dtype: torch.dtype) -> torch.Tensor:
        result = m(x.to(device, dtype))
        return result[0] if isinstance(result, tuple) else result

    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x)[0]

    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    model("linear", nn.Linear(64, 32), on_x)
    model("mlp", nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 9)), on_x)
    model("encoder layer", copy.deepcopy(layer).eval(), on_x)
    model("encoder", nn.TransformerEncoder(copy.deepcopy(layer), 3, enable_nested_tensor=False).eval(), on_x)
    model("encoder layer in training mode", copy.deepcopy(layer).train(), on_x)
    model("MultiheadAttention", SelfAttention().eval(), on_x)
    model("LSTM", nn.LSTM(64, 32, batch_first=True), on_x)
    training(layer, x)
    transformers_models()


def training(layer: torch.nn.Module, x: torch.Tensor) -> None:
    """One step's gradients of a model, without a fallback."""
    there, here = copy.deepcopy(layer).train().to("mps"), copy.deepcopy(layer).train()
    rivulet.reset_fallback_counts()
    for m, device in ((here, "cpu"), (there, "mps")):
        F.cross_entropy(m(x.to(device)).reshape(32, -1), torch.arange(32, device=device)).backward()
    if rivulet.fallback_counts():
        WRONG.append(f"training fell back: {rivulet.fallback_counts()}")
    for (name, one), two in zip(here.named_parameters(), there.parameters()):
        if not torch.allclose(one.grad, two.grad.cpu(), rtol=1e-4, atol=1e-6):
            WRONG.append(f"training: gradient of {name} is {(one.grad - two.grad.cpu()).abs().max()} off")


def transformers_models() -> None:
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: BERT, GPT-2 and ViT left out")
        return
    transformers.logging.set_verbosity_error()
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    ids = torch.randint(0, 1000, (2, 24))
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=1000, **size)).eval()
    model("BERT", bert, lambda m, d, t: m(ids.to(d), attention_mask=torch.ones_like(ids).to(d)).last_hidden_state)
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=64, **size)).eval()
    model("ViT", vit, lambda m, d, t: m(torch.full((1, 3, 64, 64), 0.3, device=d, dtype=t)).last_hidden_state)
    config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=1000, bos_token_id=1, eos_token_id=2)
    gpt = transformers.GPT2LMHeadModel(config).eval()
    model("GPT-2", gpt, lambda m, d, t: m(ids.to(d)).logits)
    there = copy.deepcopy(gpt).to("mps")
    options = {"max_new_tokens": 16, "min_new_tokens": 16, "pad_token_id": 0}
    rivulet.reset_fallback_counts()
    greedy = there.generate(ids.to("mps"), do_sample=False, **options)
    sampled = there.generate(ids.to("mps"), do_sample=True, **options)
    if not torch.equal(greedy.cpu(), gpt.generate(ids, do_sample=False, **options)):
        WRONG.append("GPT-2 writes something else than on the CPU")
    if sampled.shape != (2, 40) or rivulet.fallback_counts():
        WRONG.append(f"generation: {tuple(sampled.shape)}, fell back: {rivulet.fallback_counts()}")


def threads() -> None:
    """31 threads with one model, bit-equal to one thread."""
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval().to("mps")
    packed = torch.randn(2, 8, 3, 4, 16, device="mps")
    x = torch.randn(2, 8, 64, device="mps")

    def once() -> list[torch.Tensor]:
        q, k, v = packed.permute(2, 0, 3, 1, 4).contiguous()
        results = [layer(x), F.scaled_dot_product_attention(q, k, v), torch.bmm(x, x.mT), x.t() if x.dim() == 2 else x.mT.contiguous()]
        return [result.cpu() for result in results]

    with torch.no_grad():
        alone = once()

    def work() -> None:
        with torch.no_grad():
            for _ in range(4):
                if not all(map(torch.equal, once(), alone)):
                    WRONG.append("a thread of 31 got something else than one alone")

    workers = [threading.Thread(target=work) for _ in range(31)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    for part in sys.argv[1:]:
        globals()[part]()
    for line in WRONG:
        print(line)
    print("ok" if not WRONG else f"{len(WRONG)} wrong")
