"""Ops with kernels under a dispatch mode of Python's, such as a counter of FLOPs: they are what they are without one."""

from __future__ import annotations

import pytest
from test_vulkan import needs_llvmpipe

# An op that reaches another inside PyTorch's code, over memory that the CPU has not seen.
SCRIPT = """
import torch, rivulet
from torch.utils._python_dispatch import TorchDispatchMode

class Passes(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))

table = torch.randn(2000, 16, device="mps")
host = table.cpu()
for k in range(40):
    junk = torch.full((4, 300), 10**9 + k, device="mps")
    del junk
    with Passes():
        index = torch.full((1, 300), 3, device="mps").add(k).expand(4, 300)
        rows = torch.nn.functional.embedding(index, table)
    assert torch.equal(rows.cpu(), host[3 + k].expand(4, 300, 16)), k
assert not rivulet.fallback_counts(), rivulet.fallback_counts()
"""

# The product of a linear layer, which has a way of its own above the modes.
LINEAR = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

class Notes(TorchDispatchMode):
    seen = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))

layer, x = torch.nn.Linear(4, 3).to("mps"), torch.randn(2, 4, device="mps")
with torch.no_grad():
    wanted = layer(x)
    with Notes() as notes:
        assert torch.equal(layer(x), wanted)
    assert any("addmm" in name or "linear" in name for name in notes.seen), notes.seen
    with FakeTensorMode() as fake:
        out = torch.nn.functional.linear(*map(fake.from_tensor, (x, layer.weight, layer.bias)))
    assert out.shape == (2, 3) and out.device.type == "mps" and not type(out) is torch.Tensor
    assert torch.allclose(torch.compile(layer, backend="eager")(x), wanted)
"""


@needs_llvmpipe
@pytest.mark.parametrize("script", [SCRIPT, LINEAR], ids=["inside PyTorch's code", "linear"])
def test_native_ops_under_a_mode(run_python, script):
    run_python(script, env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0"})
