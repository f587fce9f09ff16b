"""Real kinds of model, from one thread and from eight at once, give what the CPU gives."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))

THREADS = [1, 8]
ROUNDS = 3


def minilm():
    pytest.importorskip("transformers")
    from embedding import batches_of, load, sentences

    model, tokenizer = load("cpu")
    texts = sentences()[:32]
    batches = batches_of(texts, tokenizer, 4)
    return model, [(lambda m, b=batch, **_: m(**to(b, m)).last_hidden_state) for batch in batches]


def to(batch, model):
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def on_tensors(*shapes_of_calls):
    """Calls of a model on seeded random inputs, one for each tuple of shapes."""
    calls = []
    for index, shapes in enumerate(shapes_of_calls):
        generator = torch.Generator().manual_seed(index)
        inputs = [torch.randn(shape, generator=generator) for shape in shapes]
        calls.append(lambda m, inputs=inputs: m(*(x.to(next(m.parameters()).device) for x in inputs)))
    return calls


def transformer_encoder():
    layer = torch.nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
    return layer, on_tensors(*([(3, 5 + i, 64)] for i in range(8)))


def transformer_encoder_training_path():
    """In eval mode under no_grad the layer is one fused op; in train mode it is its many single ops."""
    layer = torch.nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    return model.train(), on_tensors(*([(2, 4 + i, 64)] for i in range(8)))


def lstm():
    model = torch.nn.LSTM(32, 48, num_layers=2, bidirectional=True, batch_first=True)
    return model, on_tensors(*([(4, 6 + i, 32)] for i in range(8)))


def conv_net():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, stride=2, groups=4),
        torch.nn.SiLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
        torch.nn.Softmax(dim=1),
    )
    return model, on_tensors(*([(2, 3, 24 + i, 32)] for i in range(8)))


def gpt_like():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=3, n_head=4, n_embd=64, vocab_size=500, n_positions=64)
    model = transformers.GPT2LMHeadModel(config)
    prompts = [torch.randint(0, 500, (1, 4 + i), generator=torch.Generator().manual_seed(i)) for i in range(8)]

    # Greedy decoding with the cache: what comes out depends on every step before.
    def generate(m, prompt):
        prompt = prompt.to(next(m.parameters()).device)
        mask = torch.ones_like(prompt)
        tokens = m.generate(prompt, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
        return tokens, m(tokens).logits

    return model, [lambda m, p=prompt: generate(m, p) for prompt in prompts]


MODELS = [minilm, transformer_encoder, transformer_encoder_training_path, lstm, conv_net, gpt_like]


def tensors_of(result) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors_of(part)]


def results_of(model, calls) -> list[list[torch.Tensor]]:
    with torch.no_grad():
        return [[t.cpu() for t in tensors_of(call(model))] for call in calls]


def assert_same(got, expected) -> None:
    assert len(got) == len(expected)
    for outputs, wanted in zip(got, expected):
        assert len(outputs) == len(wanted)
        for output, want in zip(outputs, wanted):
            torch.testing.assert_close(output, want)


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def case(request):
    """(model on mps, calls, what the CPU gives)"""
    torch.manual_seed(0)
    model, calls = request.param()
    if request.param is not transformer_encoder_training_path:
        model.eval()
    # What deepcopy and .to() make must be the same model, so the CPU's own copy stays behind.
    moved = copy.deepcopy(model).to("mps")
    assert {p.device.type for p in moved.parameters()} == {"mps"}
    return moved, calls, results_of(model, calls)


@pytest.mark.parametrize("threads", THREADS)
def test_matches_the_cpu(case, threads, in_threads):
    model, calls, expected = case

    # Each thread begins with another call, so that different shapes meet.
    def work(index: int):
        shift = index % len(calls)
        order = [*range(shift, len(calls)), *range(shift)]
        for _ in range(ROUNDS):
            got = results_of(model, [calls[i] for i in order])
            assert_same(got, [expected[i] for i in order])
        return True

    assert in_threads(threads, work) == [True] * threads


def test_results_live_on_the_device(case):
    model, calls, _ = case
    with torch.no_grad():
        assert {t.device.type for t in tensors_of(calls[0](model))} == {"mps"}


def test_a_copy_of_a_model_for_each_thread(in_threads):
    """The guide's advice for large models: each thread builds and moves its own."""
    torch.manual_seed(0)
    model, calls = conv_net()
    model.eval()
    expected = results_of(model, calls)

    def work(index: int):
        own = copy.deepcopy(model).to("mps")
        assert_same(results_of(own, calls), expected)
        return True

    assert in_threads(8, work) == [True] * 8
