"""What the tests of plans share: small models, and a comparison."""

from __future__ import annotations

import dataclasses

import pytest
import rivulet
import torch
from torch import nn
from torch.nn import functional

HOST = rivulet.adapter().backend == "host"


def close(given, expected):
    """Equal to float32's tolerance, also inside structures."""
    torch.testing.assert_close(
        given.cpu() if isinstance(given, torch.Tensor) else given,
        expected.cpu() if isinstance(expected, torch.Tensor) else expected,
        rtol=1e-4,
        atol=1e-5,
    )


def on_mps(module):
    return module.to("mps").eval()


def mlp():
    torch.manual_seed(0)
    return on_mps(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Dropout(0.5), nn.Linear(16, 4)))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x, mask=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).movedim(-3, 0).transpose(-2, -3)
        got = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out(got.transpose(1, 2).flatten(2))


class Follows(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attends()
        self.first = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x):
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        x = self.attention(x) / x.shape[0] + torch.arange(x.shape[1], device=x.device)[None, :, None]
        return x.view(x.size(0) * x.size(1), 16), x.mean(1)


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return on_mps(transformers.BertModel(config))


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return on_mps(transformers.GPT2LMHeadModel(config))


@dataclasses.dataclass
class Found:
    value: torch.Tensor
    note: str = "none"
    more: dict = dataclasses.field(default_factory=dict)
