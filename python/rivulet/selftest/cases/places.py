"""Elements at places that other tensors hold."""

from __future__ import annotations

import torch

from .table import Table, on, operands


def places(case: Table) -> None:
    tensors = operands()
    a, b, ints = tensors.a, tensors.b, tensors.ints
    index = [4, 0, 4]
    case("index_add", lambda x, y: x.index_add(0, on(x, index), y[:3], alpha=2), a, b)
    case("index_add of integers", lambda x: x.index_add(1, on(x, [1, 1]), x[:, :2]), ints)
    case("index_copy", lambda x, y: x.index_copy(1, on(x, [4, 0]), y[:, :2]), a, b)
    case("index_fill", lambda x: x.index_fill(1, on(x, index), 2.5), a)
    for kind in ("prod", "mean", "amax", "amin"):
        for whole in (False, True):
            case(
                f"index_reduce {kind} {whole}",
                lambda x, y, k=kind, w=whole: x.index_reduce(0, on(x, index), y[:3], k, include_self=w), a, b,
            )  # fmt: skip
    case("put", lambda x: x.clone().put_(on(x, [1, -2]), on(x, [5.0, 6.0])), a)
    case("take", lambda x: x.take(on(x, [[1, -2], [70, 0]])), a)
    case("nonzero", lambda x: x.relu().nonzero(), a)
    case("nonzero of a vector", lambda x: x[0].gt(0).nonzero(), a)
    case("nothing is nonzero", lambda x: x.gt(99).nonzero(), a)
    case("masked_select", lambda x, y: x.masked_select(y > 0), a, b)
    case("index by a mask", lambda x: x[x > 0], a)
    case("put by a mask", lambda x: x.clone().index_put_((x > 0,), on(x, 3.0)), a)
    case("masked_scatter", lambda x, y: x.masked_scatter(x > 0, y), a, b)
    case("searchsorted", lambda x, y: torch.searchsorted(x.sort().values, y), a, b)
    case("searchsorted, right", lambda x, y: torch.searchsorted(x.sort().values, y.log(), right=True), a, b)
    case("searchsorted by an order", lambda x, y: torch.searchsorted(x, y, sorter=x.argsort(1)), a, b)
    case("bucketize", lambda x: torch.bucketize(x, on(x, [-4, 0, 3]), out_int32=True), ints)
    for x in (ints % 3, ints[0, :1], ints[0, :2], ints[:1] // 4):
        both = {"return_inverse": True, "return_counts": True}
        case(f"unique of {x.numel()}", lambda x, options=both: torch.unique(x, **options), x)
    case("bincount", lambda x: torch.bincount(x.flatten().abs(), minlength=15), ints)
    case("repeat_interleave", lambda x: x.repeat_interleave(on(x, [2, 0, 1, 1, 0, 0, 3]), 0), a)
