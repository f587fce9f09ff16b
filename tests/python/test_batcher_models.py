"""`rivulet.Batcher` of models on a device with kernels, and of sequences that differ in length."""

from __future__ import annotations

import pytest
import rivulet
import torch
from batch_support import LONG, Gated, held, rows
from test_vulkan import needs_llvmpipe

ON_KERNELS = """
import threading, torch, rivulet
torch.manual_seed(2)
model = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.GELU(), torch.nn.Linear(48, 6)).to("mps").eval()
attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).to("mps").eval()
inputs = torch.randn(5, 20, 1, 24, device="mps")
tokens = torch.randn(5, 6, 1, 9, 16, device="mps")
def encode(x, attention_mask=None):
    blocked = None if attention_mask is None else attention_mask == 0
    return attention(x, x, x, key_padding_mask=blocked, need_weights=False)[0]
with torch.no_grad():
    wanted = model(inputs).cpu()
batchers = rivulet.Batcher(model), rivulet.Batcher(encode, pad="longest")
errors, start = [], threading.Barrier(5)
def body(me):
    try:
        start.wait()
        for k in range(20):
            y = batchers[0](inputs[me, k])
            # Complete, and of this caller's row: its own stream needs no wait.
            torch.testing.assert_close(y.cpu()[0], wanted[me, k, 0], rtol=1e-4, atol=1e-5)
        for k in range(6):
            x = tokens[me, k, :, : 3 + (me + k) % 7]
            with torch.no_grad():
                direct = encode(x)
            torch.testing.assert_close(batchers[1](x), direct, rtol=1e-4, atol=1e-5)
        future = batchers[0].submit(inputs[me, 0])
        torch.testing.assert_close(future.result(60).cpu()[0], wanted[me, 0, 0], rtol=1e-4, atol=1e-5)
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=body, args=(me,)) for me in range(5)]
for t in threads: t.start()
for t in threads: t.join()
if errors:
    raise errors[0]
stats = batchers[0].stats()
assert stats["requests"] == 105 and stats["batches"] < 105, stats
print("ok")
"""


@needs_llvmpipe
@pytest.mark.parametrize("mirror", ["0", "1"], ids=["shared memory", "memory of its own"])
def test_joined_calls_on_kernels_are_those_of_the_model_alone(run_python, mirror):
    env = {"RIVULET_ADAPTER": "llvmpipe", "RIVULET_MIRROR": mirror, "LP_NUM_THREADS": "0"}
    assert run_python(ON_KERNELS, env=env, timeout=300).stdout.strip() == "ok"


# --- padding ---


def pooled(x, attention_mask=None):
    """Means over the sequence, which padding would change."""
    weight = torch.ones(x.shape[:2], device=x.device) if attention_mask is None else attention_mask.to(x.dtype)
    return (x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True), x * 2


@pytest.mark.parametrize("own_mask", ["none", "keyword", "positional", "bool"])
def test_sequences_are_padded_with_a_mask_and_cut_back(own_mask):
    model = Gated(pooled)
    batcher = rivulet.Batcher(gated_signature(model), pad="longest")
    inputs = [torch.randn(1 + k % 2, 3 + k, 2, device="mps") for k in range(4)]

    def call(x):
        mask = torch.ones(x.shape[:2], dtype=torch.bool if own_mask == "bool" else torch.int64, device="mps")
        mask[:, -1] = 0
        if own_mask == "none":
            return batcher(x)
        return batcher(x, mask) if own_mask == "positional" else batcher(x, attention_mask=mask)

    with held(batcher, model, [lambda x=x: call(x) for x in inputs], first=torch.zeros(1, 1, 2, device="mps")) as futures:
        model.go()
        for x, future in zip(inputs, futures):
            kept = x if own_mask == "none" else x[:, :-1]
            mean, twice = future.result(LONG)
            torch.testing.assert_close(mean, kept.mean(1))
            assert torch.equal(twice, 2 * x)
    # The first time one call is run alone too, to see which outputs have a length.
    assert [shapes[0] for shapes in model.batches] == [(6, 6, 2), (1, 3, 2)]


def gated_signature(model):
    def forward(x, attention_mask=None):
        return model(x) if attention_mask is None else model(x, attention_mask)

    return forward


def test_padding_has_the_value_that_was_asked_for_by_name():
    seen = []

    def model(ids, other, flat):
        seen.append((ids.clone(), other.clone()))
        return ids

    gated = Gated(model)
    batcher = rivulet.Batcher(
        lambda ids, other, flat: gated(ids, other, flat), pad="longest", pad_value={"ids": 7, "nobody": 9}
    )
    calls = [
        lambda n=n: batcher(torch.ones(1, n, device="mps"), torch.ones(1, n, 2, device="mps"), rows(1, 1, 5))
        for n in (2, 3)
    ]
    first = (torch.ones(1, 1, device="mps"), torch.ones(1, 1, 2, device="mps"), rows(1, 1, 9))
    with held(batcher, gated, calls, first=first) as futures:
        seen.clear()
        gated.go()
        assert [future.result(LONG).tolist() for future in futures] == [[[1.0, 1.0]], [[1.0, 1.0, 1.0]]]
    ids, other = seen[1]
    assert ids.tolist() == [[1, 1, 7], [1, 1, 1]] and other[0].tolist() == [[1, 1], [1, 1], [0, 0]]


def test_masks_that_cannot_be_extended_are_refused():
    batcher = rivulet.Batcher(pooled, pad="longest")
    x = torch.ones(2, 3, 4, device="mps")
    with pytest.raises(ValueError, match="float32 tensor of shape .* it must be of integers or bools"):
        batcher(x, torch.zeros(2, 3, device="mps"))
    with pytest.raises(ValueError, match=r"of shape \[2, 3\]"):
        batcher(x, attention_mask=torch.ones(2, 4, dtype=torch.int64, device="mps"))


def test_calls_of_one_length_are_joined_without_a_mask():
    model = Gated(pooled)
    batcher = rivulet.Batcher(gated_signature(model), pad="longest")
    inputs = [torch.randn(1, 3, 2, device="mps") for _ in range(2)]
    with held(batcher, model, [lambda x=x: batcher(x) for x in inputs], first=torch.zeros(1, 1, 2, device="mps")) as futures:
        model.go()
        for x, future in zip(inputs, futures):
            assert torch.equal(future.result(LONG)[1], 2 * x)
    assert model.batches == [[(2, 3, 2)]]


def test_outputs_that_only_happen_to_be_as_long_as_the_longest_are_not_cut():
    def model(x):
        return {"features": torch.cat([x.sum(1), x.sum(1)], 1), "sequence": x}

    gated = Gated(model)
    batcher = rivulet.Batcher(lambda x: gated(x), pad="longest")
    # Two elements give four features, which is the length of the longest; then that of another call.
    for lengths in ([3, 4], [4, 5], [4, 2]):
        inputs = [torch.randn(1, n, 2, device="mps") for n in lengths]
        calls = [lambda x=x: batcher(x) for x in inputs]
        with held(batcher, gated, calls, first=torch.zeros(1, 1, 2, device="mps")) as futures:
            gated.go()
            for x, future in zip(inputs, futures):
                result = future.result(LONG)
                torch.testing.assert_close(result["features"], torch.cat([x.sum(1), x.sum(1)], 1))
                assert torch.equal(result["sequence"], x)
    assert batcher.stats()["retried"] == 0
