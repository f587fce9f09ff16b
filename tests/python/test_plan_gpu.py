"""The same plans on kernels: Mesa's llvmpipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vulkan import needs_llvmpipe


@pytest.mark.parametrize("name", ["test_plan", "test_plan_batch", "test_plan_files"])
@needs_llvmpipe
@pytest.mark.timeout(600)
def test_plans_on_llvmpipe(run_python, name):
    script = f"import sys, pytest; sys.exit(pytest.main([{str(Path(__file__).with_name(name + '.py'))!r}, '-x', '-q']))"
    done = run_python(
        script, env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"}, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@needs_llvmpipe
@pytest.mark.timeout(600)
def test_residuals_go_into_the_normalisations_of_a_transformer(run_python):
    run_python(
        """
import rivulet, torch
from torch import nn

def commands(model, x, sums):
    model, x = model.to("mps").eval(), x.to("mps")
    plan = rivulet.capture(model, x)
    with torch.no_grad():
        want = model(x).cpu()
    for _ in range(2):
        torch.testing.assert_close(plan(x).cpu(), want, rtol=1e-4, atol=1e-5)
    text = plan.explain()
    assert text.count("add into add_layer_norm") == sums and "stats" not in text, text
    return text

torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True, activation="gelu")
text = commands(layer, torch.randn(2, 16, 128), 1)
assert ", 10 commands," in text, text
# MiniLM's layers: eight commands each, of ten without.
layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, activation="gelu")
text = commands(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(1, 16, 384), 12)
assert ", 48 commands," in text, text
# Normalised before: the last sum has no normalisation to go into, and goes into the product with the bias.
layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu", norm_first=True)
text = commands(layer, torch.randn(2, 8, 64), 0)
assert ", 9 commands," in text and text.count("_bias_residual") == 1, text
# Of 32 rows the products are cut into parts; what joins them does the same.
layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, activation="gelu", norm_first=True)
text = commands(layer, torch.randn(1, 32, 384), 0)
assert ", 12 commands," in text and text.count("into matmul_join_f32_bias_residual") == 1, text
""",
        env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


@needs_llvmpipe
@pytest.mark.timeout(600)
def test_attention_and_gates_that_a_model_writes_out_are_one_kernel_each(run_python):
    run_python(
        """
import math, rivulet, torch
from torch import nn

def text_of(model, *given, tolerance=1e-5):
    given = [x.to("mps") for x in given]
    plan = rivulet.capture(model, *given)
    with torch.no_grad():
        want = model(*given).cpu()
    for _ in range(2):
        torch.testing.assert_close(plan(*given).cpu(), want, rtol=tolerance, atol=tolerance)
    return plan.explain()

class Heads(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.qkv, self.out, self.mask = nn.Linear(128, 384), nn.Linear(128, 128), mask

    def forward(self, x, given):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // 4)
        if self.mask == "added":
            scores = scores + given
        if self.mask == "filled":
            scores = scores.masked_fill(given, float("-inf"))
        mixed = torch.softmax(scores, -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

torch.manual_seed(0)
x, later = torch.randn(2, 16, 128), torch.ones(16, 16).triu(1).bool()
for mask, given, kernel in [
    (None, x, "attention_f32_32_quads"),
    ("added", torch.randn(2, 1, 1, 16), "attention_f32_32_mask_f32"),
    ("filled", later, "attention_f32_32_mask_filled"),
]:
    text = text_of(Heads(mask).to("mps").eval(), x, given)
    assert f"matmul, softmax and matmul into {kernel}" in text and ", 3 commands," in text, text
half = Heads("filled").to("mps").half().eval()
text = text_of(half, x.half(), later, tolerance=2e-3)
assert "into attention_f16_32_mask_filled" in text and ", 3 commands," in text, text

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.gated = nn.LayerNorm(128), nn.LayerNorm(128, bias=False)

    def forward(self, x, gate):
        return nn.functional.gelu(self.norm(x)) + self.gated(x) * nn.functional.silu(gate)

text = text_of(Gate().to("mps").eval(), torch.randn(9, 128), torch.randn(9, 128))
assert ", 2 commands," in text and "add after layer_norm: layer_norm" in text, text

class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.weight = nn.RMSNorm(128, eps=1e-6), nn.Parameter(torch.rand(128))

    def forward(self, x, gate):
        x = self.norm(x) * nn.functional.silu(gate)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

text = text_of(Root().to("mps").eval(), torch.randn(9, 128), torch.randn(9, 128))
assert ", 2 commands," in text and text.count("mean of squares and its root into rms_norm") == 2, text
""",
        env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
