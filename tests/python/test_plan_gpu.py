"""The same plans on kernels: Mesa's llvmpipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rivulet

LLVMPIPE = any("llvmpipe" in adapter.name for adapter in rivulet.adapters())


@pytest.mark.parametrize("name", ["test_plan", "test_plan_batch", "test_plan_files"])
@pytest.mark.skipif(
    not LLVMPIPE and os.environ.get("RIVULET_REQUIRE_VULKAN") != "1", reason="no llvmpipe (mesa-vulkan-drivers)"
)
@pytest.mark.timeout(600)
def test_plans_on_llvmpipe(run_python, name):
    script = f"import sys, pytest; sys.exit(pytest.main([{str(Path(__file__).with_name(name + '.py'))!r}, '-x', '-q']))"
    done = run_python(
        script, env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"}, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.skipif(
    not LLVMPIPE and os.environ.get("RIVULET_REQUIRE_VULKAN") != "1", reason="no llvmpipe (mesa-vulkan-drivers)"
)
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
""",
        env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
