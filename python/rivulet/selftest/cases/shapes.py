"""Copies, views made whole, creation, indices."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import Table, on, operands


def shapes_and_places(case: Table) -> None:
    tensors = operands()
    a, b, ints = tensors.a, tensors.b, tensors.ints
    case("cat", lambda x, y: torch.cat([x, y, x], 0), a, b)
    case("cat of results", lambda x: torch.cat([x * 2, x + 1], 1), a)
    case("cat of types", lambda x: torch.cat([x, x.half()]), a)
    case("stack", lambda x, y: torch.stack([x, y]), a, b)
    case("flip", lambda x: x.flip(0, 1), a)
    case("roll", lambda x: (x * 1).roll(3, 1), a)
    case("repeat", lambda x: x.repeat(2, 2), a)
    case("pad", lambda x: F.pad(x, (1, 2)), a)
    for mode in ("reflect", "replicate"):
        case(f"pad by {mode}", lambda x, mode=mode: F.pad(x, (1, 2), mode=mode), a)
    case("contiguous", lambda x: x.t().contiguous(), torch.randn(80, 80))
    case("tril", torch.tril, a)
    case("triu", torch.triu, a)
    case("gather", lambda x: x.gather(1, on(x, [[1, 2]] * 7)), a)
    case("index_select", lambda x: x.index_select(1, on(x, [3, 1])), a)
    case("embedding", lambda w: F.embedding(on(w, [[1, 2], [0, 5]]), w), a)
    case("index", lambda x: x[on(x, [1, -2])], a)
    case("two indices", lambda x: x[on(x, [1, 2]), on(x, [0, -1])], a)
    case("indices on the CPU", lambda x: x[torch.tensor([1, 2])], a)
    case("index_put", lambda x: x.clone().index_put_((on(x, [1, 2]),), on(x, 5.0)), a)
    case("scatter", lambda x: x.clone().scatter_(1, on(x, [[1, 2]] * 7), 9.0), a)
    case("scatter_add", lambda x, y: x.clone().scatter_add_(1, on(x, [[1, 2]] * 7), y), a, b)
    case("one_hot", lambda x: F.one_hot(x.clamp(0), 11), ints)
    case("arange", lambda x: torch.arange(3, 17, 2, device=x.device), a)
    case("linspace", lambda x: torch.linspace(0, 1, 11, device=x.device), a)
    case("full", lambda x: torch.full((2, 3), 7, device=x.device), a)
    case("eye", lambda x: torch.eye(4, device=x.device), a)
    case("to int32", lambda x: (x * 10).to(torch.int32), a)
    case("to bool", lambda x: x.bool(), ints)
