"""Programs that crashed, hung or gave wrong values on other builds of `mps`, as published by those who met them.

Each runs at full strength in a process of its own, is never tried twice, and has its values checked: bit by bit
against one worker wherever the op is deterministic. The kernels of such a process use one thread each
(OMP_NUM_THREADS=1), so that the order of a sum does not depend on how many workers are busy.

All run on the host adapter, and on software Vulkan (llvmpipe) with what is slow there cut down in size or rounds, the
second number of `some(full, less)`; the tests marked slow run it there at full strength too.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from reproducers_support import (
    assert_as_on_cpu,
    cross_encoder,
    environment,
    one_worker,
    pairs_of,
    place,  # noqa: F401 - a fixture of every test
    reproduce,
    same,
    some,
)
from threads_support import (
    WORKERS,
    Background,
    Holders,
    assert_same_bits,
    run_threads,
    used_slots,
    wait_until,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


# --- ops from several threads ------------------------------------------------------------------------------------


def factories(index, rounds):
    """pytorch#197805: each round has a size of its own, so that nothing prepared for one serves another."""
    sums = []
    for i in range(rounds):
        dtype = DTYPES[i % 3]
        sums.append(torch.arange(0, 4096 + i, device="mps").to(dtype).float().sum().item())
        sums.append(torch.linspace(0, 1, 2048 + i, device="mps", dtype=dtype).float().sum().item())
    return sums


def threads_arange(threads, rounds):
    expected = one_worker(factories, 0, rounds)
    for results in run_threads(threads, lambda index: factories(index, rounds)):
        same(results, expected)


@pytest.mark.parametrize("rounds", [5, 60])
def test_r1_arange_and_linspace_of_growing_sizes_in_2_threads(rounds):
    reproduce(threads_arange, 2, rounds)


UNARY = [
    torch.abs, torch.neg, torch.exp, torch.exp2, torch.expm1, torch.log, torch.log2, torch.log10, torch.log1p,
    torch.sqrt, torch.rsqrt, torch.reciprocal, torch.square, torch.sin, torch.cos, torch.tan, torch.asin, torch.acos,
    torch.atan, torch.sinh, torch.cosh, torch.tanh, torch.asinh, torch.acosh, torch.atanh, torch.sigmoid, torch.erf,
    torch.erfc, torch.erfinv, torch.lgamma, torch.digamma, torch.ceil, torch.floor, torch.round, torch.trunc,
    torch.frac, torch.sign, torch.sinc, torch.i0, F.relu, F.gelu, F.silu, F.mish, F.softplus, F.elu, F.hardswish,
]  # fmt: skip


def unary(index, rounds):
    results = []
    for i in range(rounds):
        x = torch.linspace(-2, 2, 257 + 7 * i, device="mps", dtype=DTYPES[i % 3])
        for op in UNARY[(i + index) % 4 :: 4]:
            try:
                results.append(op(x).float().nan_to_num(7).sum().item())
            except (RuntimeError, NotImplementedError) as error:
                # An op that has no kernel for a dtype says so, in one thread as in four.
                results.append(float(len(str(error))))
    return results


def threads_unary(threads):
    rounds = some(60, 20)
    expected = [one_worker(unary, index, rounds) for index in range(threads)]
    for results, reference in zip(run_threads(threads, lambda i: unary(i, rounds)), expected, strict=True):
        same(results, reference)


def test_r2_unary_ops_of_growing_sizes_in_4_threads():
    reproduce(threads_unary, 4)


def mixed(index, rounds):
    torch.manual_seed(0)
    source = torch.arange(48.0).reshape(6, 8)
    results = []
    for i in range(rounds):
        n = 5 + i % 11
        results.append(torch.arange(n, device="mps").sum().item())
        results.append(torch.range(0, n, device="mps").cpu().sum())
        results.append(torch.eye(n, device="mps").to("cpu").sum())
        results.append(torch.linspace(0, n, 3 * n, device="mps")[n].item())
        results.append(torch.logspace(-1, 1, n, device="mps").cpu())
        x = source.to("mps")
        results.append(torch.renorm(x, 2, 0, 1.0 + i % 3).cpu())
        results.append(x.copy_(source * 2).t().contiguous().cpu())
    return results


def threads_mixed(threads, rounds):
    expected = one_worker(mixed, 0, rounds)
    for results in run_threads(threads, lambda index: mixed(index, rounds)):
        same(results, expected)


@pytest.mark.parametrize("threads", [2, 8])
def test_r3_factories_and_renorm_mixed_with_copies_and_item(threads):
    reproduce(threads_mixed, threads, 40)


LATCH = [
    torch.tanh, torch.abs, torch.sin, torch.cos, torch.tan, torch.asin, torch.acos, torch.atan, torch.sqrt,
    torch.rsqrt, torch.neg, torch.exp2, torch.log10, torch.log2, torch.log,
]  # fmt: skip


def latch():
    """pytorch#167541: 15 threads, one op each, all at once as the first use after the vector was made."""
    vector = torch.linspace(0.01, 0.99, 128).to("mps")
    results = run_threads(15, lambda index: LATCH[index](vector))
    same(results, [one_worker(op, vector) for op in LATCH])
    for got, op in zip(results, LATCH, strict=True):
        assert_as_on_cpu(got, op(torch.linspace(0.01, 0.99, 128)))


def test_r4_15_threads_run_one_op_each_on_a_shared_vector():
    for _ in range(5):
        reproduce(latch)


def debugger():
    """pytorch#100285: a debugger prints a tensor while another thread computes with it."""
    torch.manual_seed(0)
    image = torch.rand(256, some(256, 32), 3)
    shared = image.to("mps")
    over = threading.Event()

    def compute():
        count = 0
        while not over.is_set() or count == 0:
            y = (shared * 2 + 1).permute(2, 0, 1).contiguous()
            y.softmax(0).sum().item()
            count += 1
        return count

    def look(index):
        for _ in range(some(8, 4)):
            assert repr(shared) == repr(image).replace(")", ", device='mps:0')"), repr(shared)
            assert torch.equal(shared.nonzero().cpu(), image.nonzero())
            assert torch.equal(shared[shared > 0.5].cpu(), image[image > 0.5])
            assert torch.equal(shared.masked_fill(shared < 0.1, 0).cpu(), image.masked_fill(image < 0.1, 0))

    worker = Background(compute)
    run_threads(2, look)
    over.set()
    assert worker.result() > 0


def test_r5_repr_and_masks_while_another_thread_computes():
    reproduce(debugger)


# --- models ------------------------------------------------------------------------------------------------------


def parallel_loading():
    """transformers#48029: weights go to the device and to another dtype from four threads, then one forward."""
    torch.manual_seed(0)
    weights = [torch.randn(64, 64 + i).to(torch.bfloat16) for i in range(25)]
    for _ in range(10):
        with ThreadPoolExecutor(4) as executor:
            loaded = list(executor.map(lambda w: w.to("mps", torch.float32), weights))
        for got, want in zip(loaded, weights, strict=True):
            assert_same_bits(got, want.float())
        x = torch.ones(2, 64, device="mps")
        assert_same_bits(x @ loaded[0], torch.ones(2, 64) @ weights[0].float())


def test_r6_weights_loaded_by_a_pool_of_4():
    reproduce(parallel_loading)


def load_beside_forward():
    """hindsight#3727: one thread moves a model's weights over while another runs a forward."""
    model = cross_encoder()
    pairs = pairs_of(0)
    expected = one_worker(model.predict, pairs)
    over = threading.Event()
    weights = [torch.randn(33, 65 + i).half() for i in range(20)]

    def move():
        count = 0
        while not over.is_set() or count == 0:
            for weight in weights:
                assert_same_bits(weight.to("mps", torch.float32), weight.float())
            count += 1
        return count

    mover = Background(move)
    for _ in range(some(15, 4)):
        assert (model.predict(pairs) == expected).all()
    over.set()
    assert mover.result() > 0


def test_r7_weights_move_in_one_thread_while_another_runs_forward():
    reproduce(load_beside_forward)


def concurrent_queries():
    model = cross_encoder()
    serial = [one_worker(model.predict, pairs_of(request)).tobytes() for request in range(16)]
    for _ in range(some(4, 1)):
        assert run_threads(16, lambda request: model.predict(pairs_of(request)).tobytes()) == serial


def test_r8_16_concurrent_queries_of_a_shared_cross_encoder_are_byte_identical_to_serial_ones():
    reproduce(concurrent_queries)


def to_thread():
    model = cross_encoder()
    serial = [one_worker(model.predict, pairs_of(request)).tobytes() for request in range(5)]

    async def main():
        for _ in range(some(6, 2)):
            found = await asyncio.gather(*(asyncio.to_thread(model.predict, pairs_of(r)) for r in range(5)))
            assert [scores.tobytes() for scores in found] == serial

    asyncio.run(main())


def test_r9_5_predicts_by_asyncio_to_thread():
    reproduce(to_thread)


def spawn_for_ever():
    """candle#2637: thread after thread reads one shared tensor, doubles it and reads the result back."""
    shared = torch.arange(64.0).to("mps")
    want = 2 * torch.arange(64.0)
    for _ in range(some(60, 20)):
        for result in run_threads(8, lambda index: (shared + shared).cpu()):
            assert_same_bits(result, want)
    assert used_slots() == 0


def test_r11_new_threads_for_ever_double_a_shared_tensor():
    reproduce(spawn_for_ever)


def packed_attention():
    torch.manual_seed(0)
    weight, bias = torch.randn(3 * 64, 64) / 8, torch.randn(3 * 64)
    on_device = weight.to("mps"), bias.to("mps")
    inputs = [torch.randn(4, 10 + i % 3, 64) for i in range(8)]

    def attend(x, weight, bias):
        packed = F.linear(x, weight, bias).unflatten(-1, (3, 4, 16))
        q, k, v = (part.transpose(1, 2).contiguous() for part in packed.unbind(2))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous().flatten(-2)

    expected = [attend(x, weight, bias) for x in inputs]

    def body(index):
        x = inputs[index].to("mps")
        for _ in range(some(30, 10)):
            result = attend(x, *on_device).cpu()
            torch.testing.assert_close(result, expected[index])
        return result

    single = [one_worker(body, index) for index in range(8)]
    same(run_threads(8, body), single)


def test_r12_packed_projection_and_attention_in_8_threads():
    reproduce(packed_attention)


def encoder_layer(threads):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(256, 4, some(2048, 256), batch_first=True).eval().to("mps")
    norm = torch.nn.LayerNorm(256).to("mps")
    x = torch.randn(some(4, 1), 16, 256).to("mps")

    def body(index):
        with torch.no_grad():
            return [layer(x).cpu() for _ in range(some(6, 2))] + [norm(x).cpu() for _ in range(20)]

    expected = one_worker(body, 0)
    with torch.no_grad():
        torch.testing.assert_close(expected[0], layer.cpu()(x.cpu()), atol=1e-5, rtol=1e-4)
        layer.to("mps")
    for results in run_threads(threads, body):
        same(results, expected)


@pytest.mark.parametrize("threads", [2, 4, 8])
def test_r13_transformer_encoder_layer_and_layer_norm_agree_in_all_threads(threads):
    reproduce(encoder_layer, threads)


def matmuls(threads, rounds):
    torch.manual_seed(0)
    size = some(256, 64)
    pairs = [(torch.randn(size, size), torch.randn(size, size)) for _ in range(4)]

    def body(index):
        a, b = (t.to("mps") for t in pairs[index % 4])
        event = torch.mps.Event()
        for _ in range(rounds):
            y = torch.relu(torch.mm(a, b))
            event.record()
            event.synchronize()
        return y.cpu()

    expected = [one_worker(body, index) for index in range(4)]
    for index, result in enumerate(run_threads(threads, body)):
        assert_same_bits(result, expected[index % 4])


@pytest.mark.parametrize(
    ("threads", "rounds"), [(8, 30), (WORKERS, 10), pytest.param(WORKERS, 100, marks=pytest.mark.slow)]
)
def test_r14_mm_relu_and_sync_in_up_to_31_threads(threads, rounds):
    # Software multiplies slowly: a hundred rounds there take six minutes.
    reproduce(matmuls, threads, min(rounds, 30) if "RIVULET_ADAPTER" in environment else rounds)


def full_pool_with_models():
    """R14 and R15 together: every slot busy, and more threads than slots waiting for their turn."""
    import os

    os.environ["MPS_POOL_BACKPRESSURE"] = "1"
    model = cross_encoder()
    expected = one_worker(model.predict, pairs_of(0))
    with Holders(20):
        results = run_threads(24, lambda index: model.predict(pairs_of(0)))
    assert all((result == expected).all() for result in results)
    wait_until(lambda: used_slots() == 0)


def test_models_run_in_more_threads_than_there_are_slots():
    reproduce(full_pool_with_models)
