"""Matrix products, convolutions, attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import Table, operands


def products(case: Table) -> None:
    a, b, weight, bias, ints, heads = operands()
    case("mm", lambda x, y: x @ y.t(), a, b)
    case("linear", F.linear, a, weight, bias)
    case("linear of three dimensions", F.linear, torch.randn(2, 7, 33), weight, bias)
    case("bmm", torch.bmm, torch.randn(3, 4, 5), torch.randn(3, 5, 6))
    case("matmul", torch.matmul, torch.randn(2, 3, 4, 5), torch.randn(5, 6))
    case("addmm", lambda x, y: torch.addmm(x[:, :7], x, y.t(), beta=0.5, alpha=2), a, b)
    case("baddbmm", torch.baddbmm, torch.randn(3, 4, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6))
    case("mv", torch.mv, a, torch.randn(33))
    case("dot", torch.dot, a[0], b[0])
    case("einsum", lambda x, y: torch.einsum("ij,kj->ik", x, y), a, b)
    case("bfloat16", lambda x, y: x.bfloat16() @ y.bfloat16().t(), a, b)
    case("integers", lambda x: x @ x.t(), ints)
    case("bytes wrap", lambda x: x.to(torch.uint8) @ x.t().to(torch.uint8), ints)
    case("batches of integers", lambda x: torch.bmm(x[None], x.t()[None]).int(), ints)
    case("addmm of integers", lambda x: torch.addmm(x[:, :3], x, x.t(), beta=2, alpha=3), ints)
    case("addbmm", torch.addbmm, torch.randn(4, 6), torch.randn(3, 4, 5), torch.randn(3, 5, 6))
    case("vdot", torch.vdot, a[0], b[0])
    case("addr", lambda x, y: torch.addr(x[:, :7], x[:, 0], y[:, 0], beta=0.5), a, b)
    case("conv1d", F.conv1d, torch.randn(2, 3, 10), torch.randn(4, 3, 3))
    case("conv2d", F.conv2d, torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
    case("attention", F.scaled_dot_product_attention, heads, heads + 1, heads * 2)
    case("causal attention", lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), heads)
    mask = torch.randn(9, 9).fill_diagonal_(1)
    case("masked attention", lambda q, m: F.scaled_dot_product_attention(q, q, q, m > 0), heads, mask)
