"""Copies between the CPU and a GPU adapter: every layout and element type, and only the tensor's own bytes move."""

from __future__ import annotations

import pytest
from test_vulkan import needs_llvmpipe

SCRIPT = """
import torch, rivulet

views = {
    "whole": lambda t: t,
    "rows": lambda t: t[1:4],
    "middle": lambda t: t[:, 2:5],
    "every other": lambda t: t[..., ::2],
    "permuted": lambda t: t.permute(2, 0, 1),
    "one": lambda t: t[2, 3, 4],
    "none": lambda t: t[0:0],
    "expanded": lambda t: t.expand(3, 6, 7, 8),
}
torch.manual_seed(0)
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64):
    here = (torch.randn(6, 7, 8) * 9).to(dtype)
    there = here.to("mps")
    for name, view in views.items():
        for to in {dtype, torch.complex64 if dtype.is_complex else torch.float32}:
            case = f"{name} {dtype} {to}"
            expected = view(here).to(to)
            assert torch.equal(view(there).to("cpu", to), expected), f"read {case}"
            assert torch.equal(view(here).to("mps", to).cpu(), expected), f"written {case}"
            if name == "expanded":
                continue
            for target in ("cpu", "mps"):
                into = torch.zeros(6, 7, 8, dtype=to, device=target)
                view(into).copy_(view(there if target == "cpu" else here))
                whole = torch.zeros(6, 7, 8, dtype=to)
                view(whole).copy_(view(here))
                assert torch.equal(into.cpu(), whole), f"into {target} {case}"
lazy = torch.complex(torch.randn(4, 5), torch.randn(4, 5))
assert torch.equal(lazy.to("mps").conj().cpu(), lazy.conj())
assert torch.equal(lazy.to("mps").conj().imag.cpu(), lazy.conj().imag)

def moved(work):
    before = rivulet.doctor()["runtime"]
    work()
    after = rivulet.doctor()["runtime"]
    return after["bytes_to_host"] - before["bytes_to_host"], after["bytes_to_device"] - before["bytes_to_device"]

def check(what, got, most):
    assert got <= most if MIRRORED else got == 0, f"{what} moved {got} bytes"

big = torch.zeros(1024, 1024, device="mps")
big += 1
rivulet.reset_fallback_counts()
check("item()", moved(lambda: big[5, 7].item())[0], 4)
check("cpu() of a row", moved(lambda: big[5].cpu())[0], 4096)
check("cpu() of a column", moved(lambda: big[:, 5].cpu())[0], 4096)
check("bool()", moved(lambda: bool((big[0] > 0).all()))[0], 1)
into = torch.ones(1024)
check("copy_ into a row", moved(lambda: big[3].copy_(into))[1], 4096)
check("copy_ into a column", moved(lambda: big[:, 3].copy_(into))[1], 4096)
assert not rivulet.fallback_counts(), rivulet.fallback_counts()
"""


@needs_llvmpipe
@pytest.mark.parametrize("mirror", ["0", "1"], ids=["shared memory", "memory of its own"])
def test_copies(run_python, mirror):
    script = f"MIRRORED = {mirror == '1'}\n{SCRIPT}"
    run_python(script, env={"RIVULET_ADAPTER": "llvmpipe", "RIVULET_MIRROR": mirror, "LP_NUM_THREADS": "0"})
