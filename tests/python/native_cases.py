"""Run by test_native.py in a process of its own: ops and models on an adapter with kernels, beside the CPU.

The cases are the selftest's tables (rivulet.selftest.cases). Every one must give what the CPU gives, in the same form, and
no op may fall back to the CPU. Prints what is wrong, a line each, and "ok" at the end.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

import rivulet
import torch
import torch.nn.functional as F
from rivulet.selftest.cases import TABLES, collect
from rivulet.selftest.cases.models import model

torch.manual_seed(0)
torch.set_num_threads(1)

WRONG: list[str] = []


def check(name: str, judge: Callable[[], None]) -> None:
    rivulet.reset_fallback_counts()
    try:
        judge()
        assert not rivulet.fallback_counts(), f"fell back: {rivulet.fallback_counts()}"
    except Exception as error:
        WRONG.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def beside_float64(name: str, made: torch.nn.Module, call: Callable[[Any, str, torch.dtype], torch.Tensor]) -> None:
    check(name, lambda: model(made, call))


def transformers_models() -> None:
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: BERT, GPT-2 and ViT left out")
        return
    transformers.logging.set_verbosity_error()
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    ids = torch.randint(0, 1000, (2, 24))
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=1000, **size)).eval()
    beside_float64("BERT", bert, lambda m, d, t: m(ids.to(d), attention_mask=torch.ones_like(ids).to(d)).last_hidden_state)
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=64, **size)).eval()
    beside_float64("ViT", vit, lambda m, d, t: m(torch.full((1, 3, 64, 64), 0.3, device=d, dtype=t)).last_hidden_state)
    config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=1000, bos_token_id=1, eos_token_id=2)
    gpt = transformers.GPT2LMHeadModel(config).eval()
    beside_float64("GPT-2", gpt, lambda m, d, t: m(ids.to(d)).logits)
    there = copy.deepcopy(gpt).to("mps")
    options = {"max_new_tokens": 16, "min_new_tokens": 16, "pad_token_id": 0}
    rivulet.reset_fallback_counts()
    greedy = there.generate(ids.to("mps"), do_sample=False, **options)
    sampled = there.generate(ids.to("mps"), do_sample=True, **options)
    if not torch.equal(greedy.cpu(), gpt.generate(ids, do_sample=False, **options)):
        WRONG.append("GPT-2 writes something else than on the CPU")
    if sampled.shape != (2, 40) or rivulet.fallback_counts():
        WRONG.append(f"generation: {tuple(sampled.shape)}, fell back: {rivulet.fallback_counts()}")


def threads() -> None:
    """31 threads with one model, bit-equal to one thread."""
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval().to("mps")
    packed = torch.randn(2, 8, 3, 4, 16, device="mps")
    x = torch.randn(2, 8, 64, device="mps")

    def once() -> list[torch.Tensor]:
        q, k, v = packed.permute(2, 0, 3, 1, 4).contiguous()
        results = [layer(x), F.scaled_dot_product_attention(q, k, v), torch.bmm(x, x.mT), x.t() if x.dim() == 2 else x.mT.contiguous()]
        return [result.cpu() for result in results]

    with torch.no_grad():
        alone = once()

    def work() -> None:
        with torch.no_grad():
            for _ in range(4):
                if not all(map(torch.equal, once(), alone)):
                    WRONG.append("a thread of 31 got something else than one alone")

    workers = [threading.Thread(target=work) for _ in range(31)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    for part in sys.argv[1:]:
        if part in TABLES:
            cases = collect(part)
            for case in cases:
                check(case.name, case.judge)
            print(f"{part}: {len(cases)} cases")
        if part not in TABLES or part == "models":
            {"models": transformers_models, "threads": threads}[part]()
    for line in WRONG:
        print(line)
    print("ok" if not WRONG else f"{len(WRONG)} wrong")
