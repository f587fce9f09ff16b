"""mps on a Vulkan device (Mesa's llvmpipe): chosen by name or number, right from eight threads, fallbacks counted."""

from __future__ import annotations

import os

import pytest
import rivulet

NUMBER = next((number for number, adapter in enumerate(rivulet.adapters()) if "llvmpipe" in adapter.name), None)
needs_llvmpipe = pytest.mark.skipif(
    NUMBER is None and os.environ.get("RIVULET_REQUIRE_VULKAN") != "1", reason="no llvmpipe (mesa-vulkan-drivers)"
)

SCRIPT = """
import threading, torch, rivulet
assert rivulet.adapter().backend == "vulkan" and "llvmpipe" in rivulet.adapter().name
torch.manual_seed(0)
model = torch.nn.TransformerEncoderLayer(64, 4, batch_first=True, dropout=0.0).eval()
x = torch.randn(2, 8, 64)
torch.set_num_threads(1)
with torch.no_grad():
    expected = model(x)
    model = model.to("mps")
    alone = model(x.to("mps")).cpu()
torch.testing.assert_close(alone, expected)
wrong = []

def work():
    event = torch.mps.Event(enable_timing=True)
    with torch.no_grad():
        for _ in range(20):
            got = model(x.to("mps"))
            event.record()
            event.synchronize()
            if not torch.equal(got.cpu(), alone):
                wrong.append(threading.get_ident())

threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong
assert not rivulet.fallback_counts(), rivulet.fallback_counts()

# What has no kernel.
whole = torch.arange(9, device="mps").div(3, rounding_mode="floor")
assert torch.equal(whole.unique_consecutive().cpu(), torch.arange(3))
assert rivulet.fallback_counts() == {"aten::unique_consecutive": 1}, rivulet.fallback_counts()
rivulet.reset_fallback_counts()
assert not rivulet.fallback_counts()

weight = torch.randn(8, 8, device="mps", requires_grad=True)
(weight @ weight).sum().backward()
torch.testing.assert_close(weight.grad, weight.detach().sum(0)[:, None] + weight.detach().sum(1))
big = torch.ones(300_000, device="mps").cumsum(0)
assert big[-1].item() == 300_000
assert torch.mps.current_allocated_memory() > 0
"""


@needs_llvmpipe
@pytest.mark.parametrize("adapter", ["llvmpipe", "LLVMpipe", str(NUMBER)])
def test_ops_are_right_from_eight_threads_and_counted(run_python, adapter):
    run_python(SCRIPT, env={"RIVULET_ADAPTER": adapter})


def test_an_adapter_that_is_not_there_is_refused_with_the_list(run_python):
    run_python(
        """
import torch
try:
    torch.ones(2, device="mps")
    raise SystemExit("no error")
except RuntimeError as error:
    text = str(error)
assert "RIVULET_ADAPTER" in text and "abacus" in text and "0 (Host CPU)" in text, text
assert torch.ones(2).sum().item() == 2
""",
        env={"RIVULET_ADAPTER": "abacus"},
    )
