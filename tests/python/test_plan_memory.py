"""What a plan's call needs beside what the model needs op by op."""

from __future__ import annotations

import pytest
import rivulet
import torch
from plan_support import HOST
from torch import nn

pytestmark = pytest.mark.skipif(not HOST, reason="programs have an arena, which crates/rivulet/tests/plan* look at")


def perceptron():
    layers = [nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 256)]
    return nn.Sequential(*layers), torch.randn(512, 256)


def encoder_layer():
    return nn.TransformerEncoderLayer(128, 4, 512, batch_first=True), torch.randn(8, 64, 128)


def minilm():
    layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(4, 64, 384)


def at_most(call):
    """Bytes beside those that were there before, when there were most."""
    call()
    torch.mps.synchronize()
    torch.accelerator.reset_peak_memory_stats()
    before = torch.accelerator.memory_allocated()
    result = call()
    torch.mps.synchronize()
    most = torch.accelerator.max_memory_allocated() - before
    del result
    return most


@pytest.mark.parametrize("make", [perceptron, encoder_layer, minilm])
def test_a_call_needs_at_most_a_tenth_more_than_the_model(make):
    torch.manual_seed(0)
    model, x = make()
    model, x = model.to("mps").eval(), x.to("mps")
    plan = rivulet.capture(model, x)
    with torch.no_grad():
        eager = at_most(lambda: model(x))
    planned = at_most(lambda: plan(x))
    print(f"{make.__name__}: eager {eager}, plan {planned}")
    # One tensor of the input's size at least, or nothing was counted.
    assert eager >= x.nbytes
    assert x.nbytes <= planned <= 1.1 * eager, (planned, eager)
