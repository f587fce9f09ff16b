"""More programs that failed on other builds of `mps`, about the life of threads, tensors and memory.

They run as those of test_reproducers.py do.
"""

from __future__ import annotations

import gc
import queue
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from reproducers_support import (
    Block,
    assert_as_on_cpu,
    environment,
    one_worker,
    place,  # noqa: F401 - a fixture of every test
    reproduce,
    same,
    some,
)
from threads_support import (
    WORKERS,
    Background,
    Gate,
    assert_same_bits,
    finish_process,
    resident_bytes,
    run_threads,
    start_process,
    used_slots,
)


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
