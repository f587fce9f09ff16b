"""Programs that crashed, hung or gave wrong values on other builds of `mps`, as published by those who met them.

Each runs at full strength in a process of its own, is never tried twice, and has its values checked: bit by bit
against one worker wherever the op is deterministic. The kernels of such a process use one thread each
(OMP_NUM_THREADS=1), so that the order of a sum does not depend on how many workers are busy.

All run on the host adapter, and on software Vulkan (llvmpipe) with what is slow there cut down in size or rounds, the
second number of `some(full, less)`; the tests marked slow run it there at full strength too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from threads_support import (
    WORKERS,
    Background,
    Gate,
    Holders,
    assert_same_bits,
    finish_process,
    fresh_process,
    resident_bytes,
    run_threads,
    start_process,
    used_slots,
    wait_until,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


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
    global environment
    environment = {"OMP_NUM_THREADS": "1", **PLACES[request.param]}


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
    reproduce(matmuls, threads, rounds)


# --- the life of threads and tensors -----------------------------------------------------------------------------


def churn():
    model = torch.nn.Linear(32, 16).to("mps")
    x = torch.randn(4, 32)

    def body(index):
        with torch.no_grad():
            return model(x.to("mps")).cpu()

    expected = one_worker(body, 0)
    for _ in range(50):  # one after another
        assert_same_bits(one_worker(body, 0), expected)
        assert used_slots() == 0
    for _ in range(20):  # four at a time
        same(run_threads(4, body), [expected] * 4)
    for _ in range(200):  # more threads than slots, so that every slot is used again and again
        thread = threading.Thread(target=body, args=(0,))
        thread.start()
        thread.join()
    same(run_threads(WORKERS, body) + run_threads(WORKERS, body), [expected] * 2 * WORKERS)
    # Threads end with work in flight and with thread-local tensors and events of their own.
    local = threading.local()

    def leave_things(index):
        local.tensor = x.to("mps") * 2
        local.event = torch.mps.Event()
        local.event.record()

    for _ in range(10):
        run_threads(16, leave_things)
    gc.collect()
    assert used_slots() == 0
    same([one_worker(body, 0)], [expected])


def test_r15_threads_come_and_go():
    reproduce(churn)


def hand_over(way, rounds):
    """A tensor is made in one thread and used in another."""
    boxes, used = queue.Queue(maxsize=2), queue.Queue()

    def produce():
        for number in range(rounds):
            x = torch.full((1000 + number % 7,), float(number), device="mps").mul_(2)
            event = None
            if way == "sync":
                torch.mps.synchronize()
            elif way == "event":
                event = torch.mps.Event()
                event.record()
            boxes.put((x, event), timeout=30)
            if way == "free while in use":
                del x
                scratch = torch.full((1000 + number % 7,), -1.0, device="mps")
                del scratch
            elif way == "keep until used":
                used.get(timeout=30)
        boxes.put((None, None))

    def consume():
        for number in range(rounds):
            x, event = boxes.get(timeout=30)
            if event is not None:
                event.wait()
            if way == "record_stream":
                x.record_stream(torch.mps.current_stream())
            y = (x + 1).mul_(2)
            if way == "keep until used":
                used.put(number)
            del x
            assert (y.cpu() == 4.0 * number + 2).all(), number
        assert boxes.get() == (None, None)

    producer, consumer = Background(produce), Background(consume)
    consumer.result(100)
    producer.result(100)


def all_hand_overs():
    for way in ("nothing", "sync", "event", "record_stream", "free while in use", "keep until used"):
        hand_over(way, 300)


def test_r16_a_tensor_made_in_one_thread_is_used_in_another():
    reproduce(all_hand_overs)


def batched():
    torch.manual_seed(0)
    a, b = torch.randn(8, 32, 64), torch.randn(8, 64, 128)
    triangle = torch.tril(torch.randn(16, 16)) + 8 * torch.eye(16)
    right = torch.randn(16, 6)

    def calculate(a, b, triangle, right):
        wide = torch.bmm(a, b)
        return [
            wide,
            torch.linalg.solve_triangular(triangle, right, upper=False),
            wide[:, ::2, 3:].transpose(1, 2).contiguous(),
            torch.as_strided(wide, (4, 8), (128, 3), 5).clone(),
            wide[1:, 5::7].flatten(1).sum(1),
            (wide.transpose(1, 2)[..., 1] * 2 + a[:, 0, :1]).cpu(),
        ]

    def body(index):
        operands = [t.to("mps") for t in (a, b, triangle, right)]
        for _ in range(20):
            results = calculate(*operands)
        return results

    expected = one_worker(body, 0)
    for got, want in zip(expected, calculate(a, b, triangle, right), strict=True):
        assert_as_on_cpu(got, want)
    for results in run_threads(4, body):
        same(results, expected)


def test_r17_bmm_triangular_solves_and_strided_views_in_4_threads():
    reproduce(batched)


def out_of_memory_beside_work():
    """The other parts of R18, forks and exits with live threads, are in test_fork.py and test_exit.py."""
    model = torch.nn.Linear(64, 64).to("mps")
    x = torch.randn(8, 64)
    with torch.no_grad():
        expected = one_worker(lambda: model(x.to("mps")).cpu())

    def body(index):
        for _ in range(50):
            if index % 4 == 0:
                with pytest.raises(torch.OutOfMemoryError):
                    torch.empty(10**14, dtype=torch.uint8, device="mps")
            with torch.no_grad():
                result = model(x.to("mps")).cpu()
        return result

    same(run_threads(12, body), [expected] * 12)


def test_r18_out_of_memory_in_some_threads_while_others_run():
    reproduce(out_of_memory_beside_work)


def synchronize_beside_recording():
    """CTranslate2#2077: one thread records ops while another waits for the whole device, which must cover them."""
    x = torch.zeros(64, device="mps")
    turns, answers = queue.Queue(), queue.Queue()

    def wait_for_all():
        while (event := turns.get()) is not None:
            torch.mps.synchronize()
            answers.put(event.query())

    waiter = Background(wait_for_all)
    for _ in range(200):
        for _ in range(5):
            x.add_(1)
        event = torch.mps.Event()
        event.record()
        turns.put(event)
        # Goes on recording while the other thread waits.
        y = x * 2
        assert answers.get(timeout=30), "the device was waited for, and an event recorded before is not complete"
    turns.put(None)
    waiter.result()
    assert (x.cpu() == 1000).all() and (y.cpu() == 2000).all()


def test_r19_one_thread_waits_for_the_device_while_another_records():
    reproduce(synchronize_beside_recording)


def record_and_free():
    """pytorch#193464: one thread marks a tensor for its stream while another drops the last reference to it."""
    inbox = queue.Queue(maxsize=4)
    over = threading.Event()

    def free():
        while (x := inbox.get()) is not None:
            del x

    def churn_memory():
        while not over.is_set():
            torch.empty(4096, device="mps")
            torch.mps.empty_cache()

    threads = [Background(free) for _ in range(2)] + [Background(churn_memory)]
    stream = torch.mps.Stream()
    for number in range(1500):
        x = torch.full((1024 + number % 64,), 1.0, device="mps")
        inbox.put(x)
        x.record_stream(stream)
        with torch.mps.stream(stream):
            y = x + 1
        x.record_stream(torch.mps.current_stream())
        del x
        assert number % 100 or (y.cpu() == 2).all()
    over.set()
    inbox.put(None)
    inbox.put(None)
    for thread in threads:
        thread.result()


def test_r20_record_stream_in_one_thread_while_another_frees():
    reproduce(record_and_free)


FIRST_CALLS = [
    lambda: torch.ones(3, device="mps").sum().item() == 3,
    lambda: torch.ones(3).to("mps").sum().item() == 3,
    lambda: torch.mps.current_stream().stream_id > 0,
    lambda: torch.mps.Event().record() is None,
    lambda: torch.randn(3, device="mps").numel() == 3,
    lambda: torch.mps.synchronize() is None,
    lambda: torch.nn.Linear(2, 2, device="mps").weight.device.type == "mps",
    lambda: torch.mps.current_allocated_memory() >= 0,
]


def first_calls():
    assert run_threads(16, lambda index: FIRST_CALLS[index % len(FIRST_CALLS)]()) == [True] * 16
    assert used_slots() == 0


def test_r21_16_threads_make_the_very_first_calls_of_a_process():
    for _ in range(8 if environment.get("RIVULET_TEST_LESS") is None else 3):
        reproduce(first_calls)


def pinned():
    """pytorch#193819: a pinned tensor is dropped right after an asynchronous copy, and its memory is filled anew."""
    for number in range(300):
        source = torch.full((4096,), float(number)).pin_memory()
        assert source.is_pinned()
        copy = source.to("mps", non_blocking=True)
        del source
        other = torch.empty(4096).pin_memory()
        other.fill_(-1)
        assert (copy.cpu() == number).all(), number
        back = torch.empty(4096).pin_memory()
        back.copy_(copy, non_blocking=True)
        torch.mps.synchronize()
        assert (back == number).all() and (other == -1).all()


def test_r22_pinned_memory_dropped_after_an_asynchronous_copy():
    reproduce(pinned)


def plateau(threads):
    """pytorch#132596: every shape was prepared and kept for ever; memory has to level off."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 128).to("mps")
    most, longest = some((1024, 256), (96, 48))

    def sweep(index):
        with torch.no_grad():
            for size in range(1 + index, most + 1, 16):
                y = linear(torch.ones(size, 128, device="mps"))
                q = y[: min(size, longest)].reshape(1, 4, -1, 32)
                F.scaled_dot_product_attention(q, q, q)

    def figures():
        torch.mps.synchronize()
        gc.collect()
        return torch.mps.driver_allocated_memory(), resident_bytes()

    workers = Background(run_threads, threads, lambda index: [sweep(index) for _ in range(2)])
    workers.result(180)
    reserved, resident = figures()
    for _ in range(2):
        run_threads(threads, lambda index: [sweep(index) for _ in range(2)])
    again = figures()
    mib = 1 << 20
    assert torch.mps.current_allocated_memory() < 1 * mib
    assert again[0] <= reserved + 8 * mib, (reserved, again)
    assert again[1] <= resident + 24 * mib, (resident, again)
    torch.mps.empty_cache()
    assert torch.mps.driver_allocated_memory() <= 4 * mib * (threads + 1)


@pytest.mark.parametrize("threads", [1, 8])
def test_r23_memory_levels_off_under_varying_shapes(threads):
    reproduce(plateau, threads)


def growing_cache(threads):
    """voicebox#905: the keys and values of a generation grow by one a step, and no length costs a compilation."""
    torch.manual_seed(0)
    model = Block().eval().to("mps")
    steps, first = some(200, 60), torch.randn(1, 1, 64)

    def generate(index):
        keys = values = torch.empty(1, 4, 0, 16, device="mps")
        token, times = first.to("mps"), []
        with torch.no_grad():
            for _ in range(steps):
                begun = time.monotonic()
                q, k, v = model.qkv(token).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
                keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
                attended = F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).flatten(-2)
                token = model.norm1(model.out(attended))
                token.sum().item()
                times.append(time.monotonic() - begun)
        return token.cpu(), sorted(times[1:])

    expected, _ = one_worker(generate, 0)
    for token, times in run_threads(threads, generate):
        assert_same_bits(token, expected)
        assert times[int(0.99 * len(times))] < 1, times[-5:]


def test_r24_steps_of_growing_length_stay_short():
    reproduce(growing_cache, 4)


def two_models():
    """mlx#3078: two threads, two models, each behind its own lock; on the default streams, and on their own."""
    torch.manual_seed(0)
    models = [torch.nn.Sequential(Block(), Block()).eval().to("mps") for _ in range(2)]
    inputs = [torch.randn(2, 9 + i, 64) for i in range(2)]
    locks = [threading.Lock(), threading.Lock()]

    def run(index):
        with locks[index], torch.no_grad():
            return models[index](inputs[index].to("mps")).cpu()

    expected = [one_worker(run, index) for index in range(2)]

    def same_stream(index):
        torch.mps.set_stream(torch.mps.default_stream())
        return [run(index) for _ in range(20)]

    def own_stream(index):
        with torch.mps.stream(torch.mps.Stream()):
            return [run(index) for _ in range(20)]

    for body in (same_stream, own_stream, lambda index: [run(index) for _ in range(20)]):
        for index, results in enumerate(run_threads(2, body)):
            same(results, [expected[index]] * 20)


def test_r26_two_models_behind_two_locks():
    reproduce(two_models)


def two_sessions(together):
    """onnxruntime#32561: two sessions, each used by two threads; all at once, or one session after the other."""
    torch.manual_seed(0)
    models = [torch.nn.Sequential(Block(), Block()).eval().to("mps") for _ in range(2)]
    x = torch.randn(2, 9, 64)

    def run(index):
        with torch.no_grad():
            return [models[index // 2](x.to("mps")).cpu() for _ in range(some(20, 6))]

    if together:
        results = run_threads(4, run)
    else:
        results = [result for session in (0, 2) for result in run_threads(2, lambda index: run(session + index))]
    for one, two in zip(results[::2], results[1::2], strict=True):
        same(one[1:] + two, (one[:1] * (2 * len(one)))[1:])
    print([hash(results[session][0].numpy().tobytes()) for session in (0, 2)])


def test_r27_two_sessions_of_two_threads_each_in_two_processes_at_once():
    env = {**environment, "PYTHONHASHSEED": "0"}
    alone = finish_process(start_process(two_sessions, False, env=env), 120)
    assert alone.returncode == 0, alone.stderr
    at_once = [start_process(two_sessions, True, env=env) for _ in range(2)]
    for process in at_once:
        done = finish_process(process, 120)
        assert done.returncode == 0, done.stderr
        assert done.stdout == alone.stdout


def streams_are_not_ordered():
    """pytorch#195798: work of two streams has no order of its own; `wait_event` and `wait_stream` make one."""
    slow, quick = torch.zeros(64, device="mps"), torch.zeros(64, device="mps")
    first, second = torch.mps.Stream(), torch.mps.Stream()
    ended = []

    with Gate(slow, before=lambda: torch.mps.set_stream(first)) as gate:
        assert gate.stream == first.stream_id
        event = torch.mps.Event()
        event.record(first)
        with torch.mps.stream(second):
            quick.add_(1)  # goes on beside the first stream, which has not ended
            assert quick.sum().item() == 64 and not event.query()

        def ordered():
            with torch.mps.stream(second):
                second.wait_event(event)
                quick.mul_(3)
                ended.append(event.query())

        waiter = Background(ordered)
        time.sleep(0.1)
        assert not ended
        gate.open()
        waiter.result()
    assert ended == [True] and (quick.cpu() == 3).all()
    # A tensor that crosses is right also without any wait.
    with torch.mps.stream(first):
        x = torch.full((64,), 2.0, device="mps")
    with torch.mps.stream(second):
        y = x * 2
    assert (y.cpu() == 4).all()


def test_r28_streams_have_no_order_until_they_wait():
    reproduce(streams_are_not_ordered)


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


