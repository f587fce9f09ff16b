"""What the reproducers share: where they run, at what strength, what they compare with, and small models."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from threads_support import Background, assert_same_bits, fresh_process

LLVMPIPE = {"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0"}
PLACES = {"host": {}, "llvmpipe": {**LLVMPIPE, "RIVULET_TEST_LESS": "1"}, "llvmpipe at full strength": LLVMPIPE}
environment = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(
    autouse=True,
    params=["host", "llvmpipe", pytest.param("llvmpipe at full strength", marks=pytest.mark.slow)],
)
def place(request):
    """Where the programs of a test run."""
    if request.param != "host":
        # Not at the top of the file, which the programs import too: it asks Vulkan for its devices.
        from test_vulkan import NUMBER

        if NUMBER is None and os.environ.get("RIVULET_REQUIRE_VULKAN") != "1":
            pytest.skip("no llvmpipe (mesa-vulkan-drivers)")
    environment.clear()
    environment.update({"OMP_NUM_THREADS": "1", **PLACES[request.param]})


def reproduce(body, *args, timeout=280):
    fresh_process(body, *args, env=environment, timeout=timeout)


def some(full, less):
    """A number of rounds or a size: `less` where the program runs on software Vulkan and not at full strength."""
    return less if os.environ.get("RIVULET_TEST_LESS") == "1" else full


def assert_as_on_cpu(got, want):
    """Bit by bit where the CPU's kernels run, and within 1e-5 in relative L2 error where the device has its own."""
    got, want = got.detach().cpu(), want.detach()
    if "RIVULET_ADAPTER" not in os.environ:
        assert_same_bits(got, want)
    assert got.dtype == want.dtype and got.shape == want.shape
    assert (got.double() - want.double()).norm() <= 1e-5 * want.double().norm()


def one_worker(body, *args):
    """What a single worker thread computes: the reference of the many."""
    return Background(body, *args).result(200)


def same(results, expected):
    for index, (got, want) in enumerate(zip(results, expected, strict=True)):
        assert_same_bits(torch.as_tensor(got), torch.as_tensor(want), f"result {index}")


class Block(torch.nn.Module):
    """One layer of a small transformer, with random weights."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CrossEncoder(torch.nn.Module):
    """Scores a pair of texts, as rerankers do: tokens in, one number a pair out."""

    def __init__(self, layers=2):
        super().__init__()
        self.embed = torch.nn.Embedding(500, 64)
        self.layers = torch.nn.Sequential(*(Block() for _ in range(layers)))
        self.score = torch.nn.Linear(64, 1)

    @torch.no_grad()
    def predict(self, pairs, device="mps"):
        scores = []
        for start in range(0, len(pairs), 8):
            tokens = torch.tensor(pairs[start : start + 8], device=device)
            scores.append(self.score(self.layers(self.embed(tokens)).mean(1)).sigmoid().squeeze(-1).cpu())
        return torch.cat(scores).numpy()


def cross_encoder():
    torch.manual_seed(1)
    return CrossEncoder().eval().to("mps")


def pairs_of(request):
    generator = torch.Generator().manual_seed(request)
    return torch.randint(0, 500, (20, 12 + request % 5), generator=generator).tolist()
