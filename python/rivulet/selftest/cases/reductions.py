"""Along dimensions: sums, extremes, norms, softmax, orders."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import Table, on, operands


def reductions(case: Table) -> None:
    tensors = operands()
    a, b, ints = tensors.a, tensors.b, tensors.ints
    for name in "sum mean argmax max std var nansum any all".split():
        case(f"{name} of all", getattr(torch, name), a)
        case(f"{name} along a dimension", lambda x, name=name: getattr(x, name)(0), a) if name != "max" else None
    case("keepdim", lambda x: x.sum(1, keepdim=True), a)
    case("amax", lambda x: x.amax(0), a)
    case("max with places", lambda x: tuple(x.max(1)), a)
    case("norm", lambda x: x.norm(), a)
    case("norm along a dimension", lambda x: x.norm(dim=1), a)
    case("norm of order 3", lambda x: x.norm(3, dim=1), a)
    case("norm of all of order 1.5", lambda x: x.norm(1.5), a)
    case("cdist", torch.cdist, a, b[:5])
    case("cumsum", lambda x: x.cumsum(1), a)
    case("cummax", lambda x: tuple(x.cummax(1)), a)
    case("logsumexp", lambda x: x.logsumexp(1), a)
    case("sum of integers", torch.sum, ints)
    case("sum of truth values", lambda x: (x > 0).sum(), a)
    for dim in (0, 1):
        case(f"softmax {dim}", lambda x, dim=dim: x.softmax(dim), a)
        case(f"log_softmax {dim}", lambda x, dim=dim: x.log_softmax(dim), a)
    case("layer_norm", lambda x, w: F.layer_norm(x, (33,), w, w), a, torch.randn(33))
    case("layer_norm of a view", lambda x: F.layer_norm(x.t(), (7,)), a)
    case("group_norm", lambda x: F.group_norm(x, 3), torch.randn(2, 6, 5))
    case("rms_norm", lambda x: F.rms_norm(x, (33,)), a)
    case("topk", lambda x: tuple(x.topk(3)), a)
    case("sort", lambda x: tuple(x.sort(1)), a)
    ties = torch.tensor([0.0, -0.0, float("nan"), 1.0, -1.0, float("inf")]).repeat(300)
    for x in (ties, ties.half(), ties.bfloat16(), ties > 0, (ties > 0).int(), (ties > 0).long(), ties[:12]):
        for descending in (False, True):
            order = lambda x, d=descending: tuple(x.sort(dim=0, descending=d, stable=True))  # noqa: E731
            case(f"stable sort of {len(x)} {x.dtype}", order, x)
    case("cross_entropy", lambda x: F.cross_entropy(x, on(x, [1] * 7)), a)
