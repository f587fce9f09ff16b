"""Operands of two devices, and the types that a GPU may not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

MIXED: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "add": lambda a, b: a + b,
    "add in place": lambda a, b: a.clone().add_(b),
    "mul": lambda a, b: b * a,
    "mm": lambda a, b: a @ b,
    "mm, the other way round": lambda a, b: b @ a,
    "addmm": lambda a, b: torch.addmm(a, a, b),
    "linear": lambda a, b: F.linear(a, b),
    "bmm": lambda a, b: torch.bmm(a[None], b[None]),
    "cat": lambda a, b: torch.cat([a, b]),
    "stack": lambda a, b: torch.stack([b, a]),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.5),
    "equal": lambda a, b: torch.equal(a, b),
    "softmax cross entropy": lambda a, b: F.cross_entropy(a, b),
    "layer_norm": lambda a, b: F.layer_norm(a, (4,), b[0], b[0]),
    "conv2d": lambda a, b: F.conv2d(a[None, None], b[None, None]),
    "embedding": lambda a, b: F.embedding(b.long().clamp(0, 3), a),
    "attention": lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None]),
    "gather": lambda a, b: a.gather(0, b.long().clamp(0, 3)),
    "scatter": lambda a, b: a.scatter(0, b.long().clamp(0, 3), a),
    "index_select": lambda a, b: a.index_select(0, b[0].long().clamp(0, 3)),
    "foreach": lambda a, b: torch._foreach_add([a], [b]),
    "out=": lambda a, b: torch.add(a, a, out=b),
    "out= of a product": lambda a, b: torch.mm(a, a, out=b),
}


@pytest.mark.parametrize("name", MIXED)
def test_two_devices_are_refused(name: str) -> None:
    a, b = torch.rand(4, 4, device="mps"), torch.rand(4, 4)
    kept = b.clone()
    with pytest.raises(RuntimeError, match="(?i)device|mps"):
        MIXED[name](a, b)
    assert torch.equal(b, kept)
    # Nothing is left behind: the next op works.
    assert torch.equal((a + a).cpu(), a.cpu() + a.cpu())


def test_the_refusal_names_both_devices() -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device.*mps:0 and cpu"):
        torch.rand(4, device="mps") + torch.rand(4)


def test_numbers_on_the_cpu_may_join() -> None:
    a = torch.arange(4.0, device="mps")
    assert (a + torch.tensor(2.0)).tolist() == [2, 3, 4, 5]
    assert (torch.tensor(2.0) * a).device.type == "mps"
    assert a[torch.tensor([1, 2])].tolist() == [1, 2]
    a[torch.tensor([0])] = torch.tensor(9.0)
    assert a.tolist() == [9, 1, 2, 3]


WIDE: dict[str, Callable[[torch.Tensor], Any]] = {
    "arithmetic": lambda x: (x * 2 + 1) / 3,
    "product": lambda x: x @ x,
    "inverse": torch.linalg.inv,
    "singular values": torch.linalg.svdvals,
    "determinant": torch.linalg.det,
    "fft": torch.fft.fft,
    "exponential": torch.exp,
    "sum": lambda x: x.sum(0),
    "solve": lambda x: torch.linalg.solve(x, x[0]),
    "convolution": lambda x: F.conv1d(x[None], x[:, None, :2], groups=6),
    "to float and back": lambda x: x.to(torch.complex64 if x.is_complex() else torch.float32).to(x.dtype),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", WIDE)
def test_double_precision_works(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    on_cpu = torch.randn(6, 6, dtype=dtype, generator=generator)
    on_mps = on_cpu.to("mps")
    assert on_mps.dtype == dtype
    result, wanted = WIDE[name](on_mps), WIDE[name](on_cpu)
    assert result.device.type == "mps" and result.dtype == wanted.dtype
    torch.testing.assert_close(result.cpu(), wanted, rtol=1e-12, atol=1e-12)


def test_gradients_in_double_precision_pass_the_numerical_check() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, device="mps", requires_grad=True)
    w = torch.randn(5, 4, dtype=torch.float64, device="mps", requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: F.gelu(F.linear(x, w)).logsumexp(1), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: F.linear(x, w).tanh(), (x, w))


def test_the_default_dtype_is_obeyed() -> None:
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.ones(2, device="mps").dtype == torch.float64
        assert (torch.arange(2, device="mps") / 2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
