"""What threads run at once: the models and copies that other implementations of mps are known to get wrong; and the models
whose speed is measured, by the selftest and by the project's benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Workload = Callable[[], list[torch.Tensor]]

NAMES = ("TransformerEncoderLayer", "MultiheadAttention", "packed QKV", "strided copies", "bmm", "LayerNorm", "MLP")


@functools.cache
def workloads(dtype: torch.dtype, small: bool = False) -> dict[str, Workload]:
    """By :data:`NAMES`; each makes its results on mps anew. `small` is for devices in software: the same kernels' little
    sizes. Models and inputs are made by the first call."""
    torch.manual_seed(0)

    def there(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to("mps", dtype)

    def ready(module: nn.Module) -> nn.Module:
        return module.eval().to("mps", dtype)

    width, batch, rows = (64, 8, 64) if small else (256, 32, 512)
    layer = ready(nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True))
    attention = ready(nn.MultiheadAttention(width, 4, batch_first=True))
    norm = ready(nn.LayerNorm(768))
    mlp = ready(nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width // 2)))
    tokens, lines, long = there(2, 8, width), there(8, width), there(1 if small else 16, rows, 768)
    packed = there(2, 24, 3, 4, 32)
    left, right = there(batch, 64, 128), there(batch, 128, 64)
    image = there(6, 40, 72)

    def packed_attention() -> list[torch.Tensor]:
        q, k, v = packed.permute(2, 0, 3, 1, 4).contiguous()
        return [F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()]

    def strided_copies() -> list[torch.Tensor]:
        target = torch.zeros(40, 6, 144, device="mps", dtype=dtype)
        target[:, :, ::2].copy_(image.transpose(0, 1))
        target[:, 1::2, 1::4] = image.transpose(0, 1)[:, ::2, 1::2]
        return [target, image.permute(2, 0, 1).contiguous(), image[1::2, ::3, 5:].contiguous(), image.mT.reshape(-1)]

    made: tuple[Workload, ...] = (
        lambda: [layer(tokens)],
        lambda: list(attention(tokens, tokens, tokens)),
        packed_attention,
        strided_copies,
        lambda: [torch.bmm(left, right)],
        lambda: [norm(long)],
        lambda: [mlp(lines)],
    )
    return dict(zip(NAMES, made, strict=True))


class Encoder(nn.Module):
    """Six layers of the size of MiniLM, with its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30522, 384), nn.Embedding(512, 384)
        self.norm = nn.LayerNorm(384)
        layer = nn.TransformerEncoderLayer(384, 12, 1536, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        encoded: torch.Tensor = self.layers(self.norm(self.words(tokens) + self.places(places)))
        return encoded


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512))
