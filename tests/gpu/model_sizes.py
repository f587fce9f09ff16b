"""Models of the sizes that people run, on the adapter that RIVULET_ADAPTER names: no op falls back, no byte of a forward
goes to the host, and results are as exact as the CPU's.

    RIVULET_ADAPTER=nvidia python tests/gpu/model_sizes.py
    RIVULET_ADAPTER=llvmpipe LP_NUM_THREADS=0 python tests/gpu/model_sizes.py --small

Weights are random, from the models' own configurations. The error is the relative L2 distance from the same model in float64
with the same rounded weights: at most 1e-5 in float32 and 3e-3 in float16, and at most twice what PyTorch's CPU kernels
are off (or 1e-6). `--small` makes every model small, to try the script. Ends with status 1 where something is not so.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("RIVULET_ADAPTER", "nvidia")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from torch import nn  # noqa: E402

import rivulet  # noqa: E402
from rivulet import _load  # noqa: E402

LIMITS = {torch.float32: 1e-5, torch.float16: 3e-3}
Forward = Callable[[nn.Module, torch.device, torch.dtype], torch.Tensor]
wrong: list[str] = []


def bytes_to_host() -> int:
    torch.mps.synchronize()
    return int(_load.native().report()["bytes_to_host"])


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    return ((got.cpu().double() - truth).norm() / truth.norm()).item()


@torch.no_grad()
def check(name: str, model: nn.Module, forward: Forward, dtypes: tuple[torch.dtype, ...] = tuple(LIMITS)) -> None:
    cpu, mps = torch.device("cpu"), torch.device("mps")
    for dtype in dtypes:
        rounded = copy.deepcopy(model).to(dtype)
        truth = forward(copy.deepcopy(rounded).double(), cpu, torch.float64)
        own = error(forward(rounded, cpu, dtype), truth)
        there = copy.deepcopy(rounded).to(mps)
        forward(there, mps, dtype)
        rivulet.reset_fallback_counts()
        before = bytes_to_host()
        got = forward(there, mps, dtype)
        read, fallbacks = bytes_to_host() - before, rivulet.fallback_counts()
        off = error(got, truth)
        line = f"{name:<34}{str(dtype)[6:]:<9}error {off:.1e} (CPU {own:.1e})  {read} bytes read, fallbacks {fallbacks}"
        print(line, flush=True)
        if fallbacks or read or not off <= min(LIMITS[dtype], max(2 * own, 1e-6)):
            wrong.append(line)


def basics(small: bool) -> None:
    def on(*sizes: int) -> Forward:
        torch.manual_seed(1)
        x = torch.randn(*sizes)

        def forward(model: nn.Module, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
            # Rounded to float16 first for all: the input is part of the problem, not of the error.
            out = model(x.half().to(device, dtype))
            return out

        return forward

    check("Linear 256-128", nn.Linear(256, 128), on(32, 256))
    mlp = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512))
    check("MLP 512-1024-1024-512", mlp, on(32, 512))

    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x

    for size in (128, 256) if small else (128, 256, 512, 1024):
        check(f"matmul {size}", Square(), on(size, size))
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    check("TransformerEncoder, eval", copy.deepcopy(encoder).eval(), on(4, 32, 256))
    check("TransformerEncoder, train", copy.deepcopy(encoder).train(), on(4, 32, 256))


def language_models(small: bool) -> None:
    size: dict[str, Any] = {}
    if small:
        size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    ids = torch.randint(0, 1000, (2, 64), generator=torch.Generator().manual_seed(2))

    def encoded(m: nn.Module, device: torch.device, _: torch.dtype) -> torch.Tensor:
        # Without a mask: transformers reads on the CPU whether one masks anything.
        return m(ids.to(device)).last_hidden_state

    minilm = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    for name, config in (("MiniLM", size or minilm), ("BERT-base", size)):
        bert = transformers.BertModel(transformers.BertConfig(vocab_size=30522, **config))
        check(name, bert.eval(), encoded)
    images = 64 if small else 224
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=images, **size)).eval()
    picture = torch.rand(1, 3, images, images, generator=torch.Generator().manual_seed(3)).half()
    check("ViT-B/16", vit, lambda m, device, dtype: m(picture.to(device, dtype)).last_hidden_state)
    config = {"n_embd": 64, "n_layer": 2, "n_head": 4} if small else {}
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).eval()
    check("GPT-2-small", gpt, lambda m, device, _: m(ids.to(device)).logits)
    generate(gpt, ids[:1, :16])


@torch.no_grad()
def generate(gpt: Any, prompt: torch.Tensor, tokens: int = 64) -> None:
    """Writes with a cache of keys and values, greedy and sampled."""
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0, "use_cache": True}
    there = copy.deepcopy(gpt).to("mps")
    on_device = prompt.to("mps")
    for name, sampled in (("greedy", False), ("sampled", True)):
        there.generate(on_device, do_sample=sampled, **options)
        rivulet.reset_fallback_counts()
        before = bytes_to_host()
        written = there.generate(on_device, do_sample=sampled, **options)
        read, fallbacks = bytes_to_host() - before, rivulet.fallback_counts()
        line = f"GPT-2-small writes {tokens} tokens, {name:<8} {read} bytes read, fallbacks {fallbacks}"
        # transformers itself asks whether all sequences have ended: a truth value a token or two.
        good = not fallbacks and read <= 16 * tokens and written.shape == (1, prompt.shape[1] + tokens)
        if not sampled:
            same = torch.equal(written.cpu(), gpt.generate(prompt, do_sample=False, **options))
            line, good = f"{line}, as on the CPU: {same}", good and same
        print(line, flush=True)
        if not good:
            wrong.append(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    print(rivulet.adapter().name, torch.__version__, transformers.__version__, flush=True)
    basics(args.small)
    language_models(args.small)
    print("ok" if not wrong else "\n".join(["wrong:", *wrong]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
