"""The stream pool: who gets a slot, for how long, and what happens when there is none."""

from __future__ import annotations

import gc
import os
import re
import threading
import time

import pytest
import torch
from threads_support import (
    WORKERS,
    Background,
    Gate,
    Holders,
    assert_same_bits,
    counting,
    fresh_process,
    one_kernel_thread,
    pool,
    resident_bytes,
    run_threads,
    used_slots,
    wait_until,
    waiting_threads,
)

VARIABLES = (
    "MPS_STREAM_POOL_SIZE",
    "MPS_POOL_SHARE",
    "MPS_POOL_TIMEOUT_MS",
    "MPS_POOL_BACKPRESSURE",
    "MPS_STREAM_POOL_WAIT_TIMEOUT_MS",
)

#: Every way to ask for a wait without a limit, and for sharing.
WAITING = [
    pytest.param({"MPS_POOL_BACKPRESSURE": "1"}, id="backpressure"),
    pytest.param({"MPS_POOL_TIMEOUT_MS": "60000"}, id="timeout"),
    pytest.param({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "-1"}, id="wait-timeout-unlimited"),
    pytest.param({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "60000"}, id="wait-timeout"),
]


@pytest.fixture(autouse=True)
def clean_pool(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    torch.ones(1, device="mps")
    gc.collect()
    wait_until(lambda: used_slots() == 0, 10)
    yield
    wait_until(lambda: used_slots() == 0, 10)


@pytest.fixture
def one_thread_kernels():
    with one_kernel_thread():
        yield


@pytest.fixture
def settings(monkeypatch):
    def change(values):
        for name, value in values.items():
            monkeypatch.setitem(os.environ, name, value)

    return change


def one_op():
    return torch.ones(4, device="mps").sum().item()


def refused():
    """The error of a thread that finds no slot, and the milliseconds until it came."""

    def body():
        start = time.monotonic()
        with pytest.raises(RuntimeError) as raised:
            one_op()
        return str(raised.value), (time.monotonic() - start) * 1e3

    return Background(body).result()


# --- how many -------------------------------------------------------------------------------------------------


def test_31_workers_and_the_main_thread_run_at_once():
    x = torch.arange(12.0, device="mps").reshape(3, 4)
    everybody = threading.Barrier(WORKERS + 1)

    def body(index):
        everybody.wait()
        mine = (x * index).sum().item()
        everybody.wait()  # all 31 have a slot at this moment
        return torch.mps.current_stream().stream_id, mine

    workers = Background(run_threads, WORKERS, body)
    everybody.wait()
    everybody.wait()
    assert one_op() == 4 and torch.mps.current_stream().stream_id == 0
    results = workers.result()
    assert sorted(stream for stream, _ in results) == list(range(1, WORKERS + 1))
    assert [value for _, value in results] == [66.0 * index for index in range(WORKERS)]


def test_the_32nd_worker_is_refused_with_the_pool_its_size_its_threads_and_three_ways_out():
    with Holders() as holders:
        text, milliseconds = refused()
        assert one_op() == 4  # the main thread goes on
    assert milliseconds < 1000
    assert "mps stream pool exhausted" in text
    assert "31 worker streams" in text and "MPS_STREAM_POOL_SIZE=32" in text
    named = [int(number) for number in re.findall(r"\(thread (\d+)\)", text)]
    assert len(named) >= 8 and set(named) <= set(holders.ids), (named, holders.ids)
    assert f"and {WORKERS - len(named)} more" in text
    share, wait, larger = (text.index(way) for way in ("MPS_POOL_SHARE=1", "MPS_POOL_BACKPRESSURE=1", "up to 1024"))
    assert share < wait < larger, "sharing is the first way out to be named"


def test_a_refused_thread_gets_a_slot_at_its_next_try():
    with Holders() as holders:
        tries = threading.Barrier(2)

        def body():
            with pytest.raises(RuntimeError, match="exhausted"):
                one_op()
            tries.wait()
            tries.wait()
            return one_op()

        thread = Background(body)
        tries.wait()
        holders.end_one()
        tries.wait()
        assert thread.result() == 4


def test_idle_threads_keep_their_slots_where_nobody_asked_to_wait():
    with Holders(explicit=False):
        assert "exhausted" in refused()[0]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(lambda: torch.mps.Event().record(), id="Event"),
        pytest.param(lambda: torch.mps.current_stream(), id="current_stream"),
        pytest.param(lambda: torch.accelerator.current_stream(), id="accelerator.current_stream"),
        pytest.param(lambda: torch.ones(2).to("mps"), id="to"),
        pytest.param(lambda: torch.nn.Linear(2, 2, device="mps"), id="module"),
        pytest.param(lambda: torch.ones(2, device="mps"), id="factory"),
        pytest.param(lambda: torch.randn(2, device="mps"), id="random"),
    ],
)
def test_any_call_can_be_a_threads_first(first):
    def body(index):
        first()
        return torch.mps.current_stream().stream_id, one_op()

    results = run_threads(4, body)
    assert all(stream > 0 and value == 4 for stream, value in results), results
    assert len({stream for stream, _ in results}) == 4 or used_slots() == 0


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: torch.mps.current_stream(), id="current_stream"),
        pytest.param(lambda: torch.mps.Event().record(), id="Event"),
        pytest.param(lambda: torch.ones(2).to("mps"), id="to"),
    ],
)
def test_any_first_call_is_refused_alike(call):
    def body():
        with pytest.raises(RuntimeError, match="mps stream pool exhausted"):
            call()

    with Holders():
        Background(body).result()


def test_a_thread_keeps_its_stream_for_life():
    def body(index):
        streams = set()
        for _ in range(20):
            one_op()
            streams.add(torch.mps.current_stream().stream_id)
        return streams

    assert all(len(streams) == 1 for streams in run_threads(8, body))


# --- waiting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [torch.mps.current_stream, lambda: torch.mps.Event().record(), one_op])
def test_a_thread_that_waits_for_a_slot_does_not_hold_the_gil(settings, call):
    settings({"MPS_POOL_BACKPRESSURE": "1"})
    with Holders() as holders, counting() as count:
        waiter = Background(call)
        wait_until(lambda: waiting_threads() == 1)
        before = count()
        wait_until(lambda: count() >= before + 20, 20)  # never, where the waiting thread keeps the GIL
        assert waiter.is_running()
        holders.end_one()
        waiter.result(10)


@pytest.mark.parametrize("values", WAITING)
def test_a_waiting_thread_goes_on_when_another_ends(settings, values):
    settings(values)
    with Holders() as holders:
        freed = holders.streams[0]
        waiter = Background(lambda: (one_op(), torch.mps.current_stream().stream_id))
        wait_until(lambda: waiting_threads() == 1)
        time.sleep(0.1)
        assert waiter.is_running(), "nobody had ended yet"
        holders.end_one()
        assert waiter.result(10) == (4, freed)
    assert waiting_threads() == 0


def test_waiting_threads_are_served_in_the_order_they_came(settings):
    settings({"MPS_POOL_BACKPRESSURE": "1"})
    tensors = [torch.zeros(4, device="mps") for _ in range(10)]
    with Holders() as holders:
        gates = []
        for index, tensor in enumerate(tensors):
            # Each stays in its first op, so that the next in line cannot take its slot for being idle.
            gates.append(Gate(tensor, wait_for_start=False))
            wait_until(lambda index=index: waiting_threads() == index + 1)
        for index, gate in enumerate(gates):
            holders.end_one()
            assert gate.inside.wait(10)
            time.sleep(0.01)
            assert [later.inside.is_set() for later in gates] == [place <= index for place in range(10)]
        for gate in gates:
            gate.__exit__()
    assert [tensor.sum().item() for tensor in tensors] == [4] * 10


def test_a_waiting_thread_takes_the_slot_of_an_idle_one_which_gets_another_later(settings):
    settings({"MPS_POOL_BACKPRESSURE": "1"})
    with Holders(WORKERS - 1):
        take_turns = threading.Barrier(2)

        def idler():
            first = one_op()
            take_turns.wait()
            take_turns.wait()
            return first, one_op()

        idle = Background(idler)
        take_turns.wait()
        assert Background(one_op).result(10) == 4
        take_turns.wait()
        assert idle.result(10) == (4, 4)


@pytest.mark.parametrize("values", [*WAITING, pytest.param({"MPS_POOL_SHARE": "1"}, id="share")])
def test_40_idle_threads_never_hang(settings, values):
    """As in a ThreadPoolExecutor(40): every thread stays alive and comes back now and then."""
    settings(values)
    everybody = threading.Barrier(40)

    def body(index):
        total = 0.0
        for _ in range(3):
            total += (torch.ones(8, device="mps") * index).sum().item()
            everybody.wait(60)
        return total

    assert run_threads(40, body) == [24.0 * index for index in range(40)]


@pytest.mark.parametrize(
    "values",
    [{"MPS_POOL_TIMEOUT_MS": "{}"}, {"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "{}"}],
    ids=["MPS_POOL_TIMEOUT_MS", "MPS_STREAM_POOL_WAIT_TIMEOUT_MS"],
)
def test_a_timeout_of_n_ms_raises_between_n_and_1_2_n_plus_50_ms(settings, values):
    with Holders():
        for n in (50, 400, 1000):
            settings({name: value.format(n) for name, value in values.items()})
            waited = []
            # A machine that runs something else may wake a thread late; never early.
            for _ in range(4):
                text, milliseconds = refused()
                waited.append(milliseconds)
                assert f"timed out after {n} ms" in text and next(iter(values)) in text
                assert "MPS_POOL_SHARE=1" in text and "MPS_POOL_BACKPRESSURE=1" in text
                if milliseconds <= 1.2 * n + 50:
                    break
            assert min(waited) >= n, (n, waited)
            assert min(waited) <= 1.2 * n + 50, (n, waited)
    assert waiting_threads() == 0


def test_a_thread_that_timed_out_gets_a_slot_later(settings):
    settings({"MPS_POOL_TIMEOUT_MS": "20"})
    with Holders() as holders:
        turn = threading.Barrier(2)

        def body():
            with pytest.raises(RuntimeError, match="timed out after 20 ms"):
                one_op()
            turn.wait()
            turn.wait()
            return one_op()

        thread = Background(body)
        turn.wait()
        holders.end_one()
        turn.wait()
        assert thread.result() == 4


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "raise"),
        ({"MPS_POOL_BACKPRESSURE": "0"}, "raise"),
        ({"MPS_POOL_BACKPRESSURE": ""}, "raise"),
        ({"MPS_POOL_SHARE": "0"}, "raise"),
        ({"MPS_POOL_SHARE": ""}, "raise"),
        ({"MPS_POOL_TIMEOUT_MS": "0"}, "raise"),
        ({"MPS_POOL_TIMEOUT_MS": ""}, "raise"),
        ({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "0"}, "raise"),
        ({"MPS_POOL_BACKPRESSURE": "1"}, "wait"),
        ({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "-1"}, "wait"),
        ({"MPS_POOL_TIMEOUT_MS": "70"}, "70"),
        ({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "80"}, "80"),
        ({"MPS_POOL_SHARE": "1"}, "share"),
        # Precedence: SHARE, TIMEOUT_MS, BACKPRESSURE, WAIT_TIMEOUT_MS.
        ({"MPS_POOL_SHARE": "1", "MPS_POOL_TIMEOUT_MS": "70", "MPS_POOL_BACKPRESSURE": "1"}, "share"),
        ({"MPS_POOL_TIMEOUT_MS": "70", "MPS_POOL_BACKPRESSURE": "1"}, "70"),
        ({"MPS_POOL_TIMEOUT_MS": "0", "MPS_POOL_BACKPRESSURE": "1"}, "raise"),
        ({"MPS_POOL_BACKPRESSURE": "1", "MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "80"}, "wait"),
        ({"MPS_POOL_BACKPRESSURE": "0", "MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "80"}, "80"),
        ({"MPS_POOL_SHARE": "0", "MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "-1"}, "wait"),
    ],
    ids=lambda value: " ".join(f"{k.removeprefix('MPS_')}={v}" for k, v in value.items()) or "unset"
    if isinstance(value, dict)
    else value,
)
def test_every_spelling_set_from_python_after_import(settings, values, expected):
    with Holders() as holders:
        settings(values)
        if expected == "wait":
            waiter = Background(one_op)
            wait_until(lambda: waiting_threads() == 1)
            time.sleep(0.15)
            assert waiter.is_running()
            holders.end_one()
            assert waiter.result(10) == 4
        elif expected == "share":
            sharer = Background(lambda: (one_op(), torch.mps.current_stream().stream_id))
            value, stream = sharer.result(10)
            assert value == 4 and stream in range(1, WORKERS + 1)
        elif expected == "raise":
            text, _ = refused()
            assert "exhausted: all 31" in text and "timed out" not in text
        else:
            text, milliseconds = refused()
            assert f"timed out after {expected} ms" in text and milliseconds >= int(expected)


def test_a_mode_can_be_changed_while_the_program_runs(settings):
    with Holders() as holders:
        assert "exhausted" in refused()[0]
        settings({"MPS_POOL_TIMEOUT_MS": "30"})
        assert "timed out after 30 ms" in refused()[0]
        settings({"MPS_POOL_SHARE": "1"})
        assert Background(one_op).result() == 4
        settings({"MPS_POOL_SHARE": "0", "MPS_POOL_TIMEOUT_MS": "", "MPS_POOL_BACKPRESSURE": "1"})
        waiter = Background(one_op)
        wait_until(lambda: waiting_threads() == 1)
        holders.end_one()
        assert waiter.result() == 4
        del os.environ["MPS_POOL_BACKPRESSURE"]
        holders.add()
        assert "exhausted" in refused()[0]


BAD = {
    "MPS_STREAM_POOL_SIZE": ("2 to 1024", ["0", "1", "1025", "-3", "abc", "3.5", "1e2", "+8", " 32", "32 ", "9" * 30]),
    "MPS_POOL_SHARE": ("0 and 1", ["yes", "2", "true", "-1", " 1"]),
    "MPS_POOL_TIMEOUT_MS": ("0 to", ["-1", "abc", "1.5", "5s", "2147483648", "9" * 30]),
    "MPS_POOL_BACKPRESSURE": ("0 and 1", ["on", "-1", "TRUE", "1.0"]),
    "MPS_STREAM_POOL_WAIT_TIMEOUT_MS": ("-1", ["-2", "forever", "0.5", "inf"]),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, values) in BAD.items() for value in values])
def test_a_bad_value_is_an_error_that_names_variable_value_and_what_is_allowed(settings, name, value):
    settings({name: value})
    text = refused()[0]
    assert name in text and value in text and "allowed" in text and BAD[name][0] in text, text
    # Also where another variable would win.
    settings({"MPS_POOL_SHARE": "1"} if name != "MPS_POOL_SHARE" else {"MPS_POOL_BACKPRESSURE": "1"})
    assert name in refused()[0]
    # Nothing is lost: without the value the same pool serves on.
    del os.environ[name]
    os.environ.pop("MPS_POOL_SHARE", None)
    assert Background(one_op).result() == 4


def test_a_change_of_the_size_after_the_first_slot_is_an_error_that_says_so(settings):
    settings({"MPS_STREAM_POOL_SIZE": "64"})
    text = refused()[0]
    assert "MPS_STREAM_POOL_SIZE is 64 now" in text and "32 slots" in text and "before the first use" in text
    settings({"MPS_STREAM_POOL_SIZE": "32"})
    assert Background(one_op).result() == 4


def check_size(size, where):
    if where == "after import":
        os.environ["MPS_STREAM_POOL_SIZE"] = str(size)
    workers = size - 1
    with Holders(workers) as holders:
        assert one_op() == 4
        assert sorted(holders.streams) == list(range(1, size))
        assert pool()["size"] == size
        text, _ = refused()
        assert f"{workers} worker streams" in text and f"MPS_STREAM_POOL_SIZE={size}" in text, text
        os.environ["MPS_POOL_BACKPRESSURE"] = "1"
        waiter = Background(one_op)
        wait_until(lambda: waiting_threads() == 1)
        holders.end_one()
        assert waiter.result() == 4
    os.environ["MPS_STREAM_POOL_SIZE"] = str(size + 1)
    assert f"made with {size} slots" in refused()[0]


@pytest.mark.parametrize(
    ("size", "where"),
    [(2, "after import"), (16, "after import"), (64, "after import"), (256, "after import"), (16, "before start")],
)
def test_sizes(size, where):
    env = {"MPS_STREAM_POOL_SIZE": str(size)} if where == "before start" else None
    fresh_process(check_size, size, where, env=env)


def check_bad_size_on_the_main_thread(value):
    with pytest.raises(RuntimeError, match=re.escape(f"MPS_STREAM_POOL_SIZE={value!r}".replace("'", '"'))):
        one_op()
    os.environ["MPS_STREAM_POOL_SIZE"] = "4"
    assert one_op() == 4 and pool()["size"] == 4


def test_a_bad_size_is_an_error_on_the_main_thread_too_and_can_be_corrected():
    fresh_process(check_bad_size_on_the_main_thread, "lots", env={"MPS_STREAM_POOL_SIZE": "lots"})


# --- giving back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_31_threads_joined_then_31_new_ones_without_a_spurious_error(rounds):
    """A slot is back before `join` returns; returned any later, some round would find the pool full."""
    for _ in range(rounds):
        assert run_threads(WORKERS, lambda index: one_op()) == [4] * WORKERS
        assert used_slots() == 0


def test_a_slot_is_back_after_an_exception():
    class Trouble(Exception):
        pass

    def body(index):
        one_op()
        raise Trouble

    for _ in range(5):
        with pytest.raises(Trouble):
            run_threads(WORKERS, body)
        assert used_slots() == 0


def test_a_slot_is_back_after_an_exception_inside_an_op():
    def body(index):
        torch.ones(2, device="mps") + torch.ones(3, device="mps")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="size of tensor"):
            run_threads(WORKERS, body)
        assert used_slots() == 0


def test_a_slot_is_back_after_sys_exit_in_a_thread():
    def body(index):
        one_op()
        raise SystemExit

    with pytest.raises(SystemExit):
        run_threads(WORKERS, body)
    assert used_slots() == 0


def test_a_slot_can_be_given_back_by_hand_and_taken_again():
    def body(index):
        one_op()
        before = used_slots()
        torch.mps.release_current_thread_slot()
        between = used_slots()
        assert one_op() == 4
        return before, between, used_slots()

    assert run_threads(1, body) == [(1, 0, 1)]
    assert used_slots() == 0


def test_threads_that_python_did_not_start_give_their_slots_back():
    """Threads made by C code, as those of other libraries: ctypes calls back on one of pthread_create."""
    import ctypes

    c = ctypes.CDLL(None)
    seen = []
    make = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)

    @make
    def body(_):
        seen.append((one_op(), torch.mps.current_stream().stream_id))
        return None

    for _ in range(3):
        threads = [ctypes.c_ulong() for _ in range(WORKERS)]
        for thread in threads:
            assert c.pthread_create(ctypes.byref(thread), None, body, None) == 0
        for thread in threads:
            c.pthread_join(thread, None)
        assert used_slots() == 0
    assert len(seen) == 3 * WORKERS and all(value == 4 for value, _ in seen)


def check_short_threads(count):
    def one():
        one_op()
        torch.mps.Event().record()

    def run(number):
        for _ in range(number // 20):
            threads = [threading.Thread(target=one) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def figures():
        gc.collect()
        torch.mps.empty_cache()
        maps = sum(1 for _ in open("/proc/self/maps")) if os.path.exists("/proc/self/maps") else 0
        files = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        tasks = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
        return {
            "slots": used_slots(),
            "allocated": torch.mps.current_allocated_memory(),
            "driver": torch.mps.driver_allocated_memory(),
            "files": files,
            "tasks": tasks,
            "maps": maps,
            "resident": resident_bytes(),
        }

    run(400)
    before = figures()
    run(count)
    after = figures()
    grown = {name: after[name] - before[name] for name in before}
    assert grown["slots"] == grown["allocated"] == grown["driver"] == grown["files"] == 0, grown
    assert grown["tasks"] <= 2 and grown["maps"] < 100, grown
    # 300 bytes a thread: the smallest thing that a thread could leave behind is larger.
    assert grown["resident"] < 4e6 + 300 * count, grown


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_short_threads_leak_nothing(count):
    fresh_process(check_short_threads, count, timeout=280)


# --- work -----------------------------------------------------------------------------------------------------


def check_forward_and_backward():
    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    inputs = [torch.randn(5, 16) for _ in range(WORKERS + 1)]

    def gradients(device, index):
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
        model.load_state_dict(reference.state_dict())
        model.to(device)
        x = inputs[index].clone().to(device).detach().requires_grad_()
        loss = model(x).square().sum()
        loss.backward()
        return [loss, x.grad, *(p.grad for p in model.parameters())]

    expected = [gradients("cpu", index) for index in range(WORKERS + 1)]
    everybody = threading.Barrier(WORKERS + 1)

    def body(index):
        one_op()
        everybody.wait(60)  # every slot is taken before the first backward
        return [gradients("mps", index) for _ in range(3)]

    workers = Background(run_threads, WORKERS, body)
    everybody.wait(60)
    mine = [gradients("mps", WORKERS) for _ in range(3)]
    for index, rounds in enumerate([*workers.result(120), mine]):
        for found in rounds:
            for got, want in zip(found, expected[index], strict=True):
                assert_same_bits(got, want, f"worker {index}")


def test_31_workers_and_the_main_thread_each_run_forward_and_backward():
    # Backward runs on threads of PyTorch's own, which take their number of kernel threads from the environment.
    fresh_process(check_forward_and_backward, env={"OMP_NUM_THREADS": "1"})


def test_waiting_asking_and_freeing_take_no_slot():
    tensors = [torch.ones(1000, device="mps") for _ in range(WORKERS)]
    event = torch.mps.Event()
    event.record()

    def body(index):
        tensors[index] = None
        event.synchronize()
        assert event.query()
        torch.mps.synchronize()
        torch.mps.empty_cache()
        torch.mps.current_allocated_memory()

    with Holders():
        run_threads(WORKERS, body)


def test_200_threads_share(settings, one_thread_kernels):
    settings({"MPS_POOL_SHARE": "1"})
    model = torch.nn.Linear(32, 8).to("mps")
    inputs = [torch.randn(4, 32) for _ in range(200)]
    with torch.no_grad():
        expected = [torch.nn.functional.linear(x, model.weight.cpu(), model.bias.cpu()) for x in inputs]
    everybody = threading.Barrier(200)

    def body(index):
        one_op()
        everybody.wait(120)  # 200 live threads, all with a stream
        with torch.no_grad():
            result = [model(inputs[index].to("mps")).cpu() for _ in range(3)]
        return torch.mps.current_stream().stream_id, result

    for index, (stream, results) in enumerate(run_threads(200, body)):
        assert 1 <= stream <= WORKERS
        for result in results:
            assert_same_bits(result, expected[index], f"thread {index}")


def test_sharers_are_spread_over_the_streams(settings):
    settings({"MPS_POOL_SHARE": "1"})
    with Holders():
        everybody = threading.Barrier(2 * WORKERS)

        def body(index):
            one_op()
            everybody.wait(60)
            return torch.mps.current_stream().stream_id

        streams = run_threads(2 * WORKERS, body)
        assert sorted(streams) == sorted(list(range(1, WORKERS + 1)) * 2)


def test_a_slot_in_use_is_not_taken_from_its_thread(settings):
    """A thread inside an op keeps its slot however many wait; the waiter comes after the op, not during it."""
    settings({"MPS_POOL_BACKPRESSURE": "1"})
    x = torch.zeros(4, device="mps")
    with Holders(WORKERS - 1), Gate(x) as gate:
        waiter = Background(lambda: (one_op(), torch.mps.current_stream().stream_id))
        wait_until(lambda: waiting_threads() == 1)
        time.sleep(0.1)
        assert waiter.is_running()
        gate.open()
        assert waiter.result(10) == (4, gate.stream)
