"""Events and waits between threads: what each covers, what it does not, and who runs meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from threads_support import Background, Gate, counting, run_threads, wait_until


def zeros():
    return torch.zeros(64, device="mps")


def stream_of(gate):
    return torch.mps.Stream(stream_id=gate.stream)


#: Ways to wait for all work of a stream.
WAITS = [
    pytest.param(lambda stream, event: event.synchronize(), id="Event.synchronize"),
    pytest.param(lambda stream, event: stream.synchronize(), id="Stream.synchronize"),
    pytest.param(lambda stream, event: torch.Stream.synchronize(stream), id="torch.Stream.synchronize"),
    pytest.param(lambda stream, event: torch.mps.synchronize(), id="mps.synchronize"),
    pytest.param(lambda stream, event: torch.accelerator.synchronize(), id="accelerator.synchronize"),
]


# --- what is covered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_lasts_until_the_work_before_it_is_done(wait):
    x, event = zeros(), torch.mps.Event()
    with Gate(x) as gate:
        stream = stream_of(gate)
        event.record(stream)
        assert event.query() is False and stream.query() is False
        waiter = Background(wait, stream, event)
        time.sleep(0.15)
        assert waiter.is_running()
        gate.open()
        waiter.result(10)
        assert event.query() is True
    assert x.sum().item() == 64


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_covers_only_what_was_recorded_before_it(wait):
    """Work that the same thread begins after the wait has begun, and that never ends by itself, is not waited for."""
    first, second, event = zeros(), zeros(), torch.mps.Event()
    with Gate(first) as gate:
        stream = stream_of(gate)
        event.record(stream)
        waiter = Background(wait, stream, event)
        time.sleep(0.1)
        # The next op of the same stream comes after the point that is waited for; it stays.
        later = Gate(second, before=lambda: torch.mps.set_stream(stream), wait_for_start=False)
        time.sleep(0.05)
        assert not later.inside.is_set(), "a stream runs its ops one after another, whichever thread gives them"
        gate.open()
        assert later.inside.wait(10)
        assert later.stream == gate.stream
        waiter.result(10)
        assert not stream.query() and event.query()
        later.__exit__()
    assert (first + second).sum().item() == 128


def test_an_event_stays_at_its_point_while_its_stream_gets_more_work():
    """Also where the wait begins after that work was given: an event is not the end of its stream."""
    first, second, event = zeros(), zeros(), torch.mps.Event()
    with Gate(first) as gate:
        stream = stream_of(gate)
        event.record(stream)
        later = Gate(second, before=lambda: torch.mps.set_stream(stream), wait_for_start=False)
        time.sleep(0.05)
        waiter = Background(event.synchronize)
        everything = Background(stream.synchronize)
        time.sleep(0.05)
        gate.open()
        waiter.result(10)
        assert event.query() and not stream.query()
        assert everything.is_running(), "later work was given before this wait"
        later.__exit__()
        everything.result(10)


def test_synchronize_does_not_wait_for_a_stream_that_gets_work_later():
    done = threading.Event()
    tensors = [zeros() for _ in range(2)]
    with Gate(tensors[0]) as early:
        waiter = Background(lambda: (torch.mps.synchronize(), done.set()))
        time.sleep(0.1)
        with Gate(tensors[1]) as late:
            early.open()
            assert done.wait(10)
            late_is_open = stream_of(late).query()
            late.open()
        waiter.result()
        assert late_is_open is False


def test_an_event_does_not_wait_for_other_streams():
    x, y, event = zeros(), zeros(), torch.mps.Event()
    with Gate(x):
        y.add_(1)
        event.record()
        start = time.monotonic()
        event.synchronize()
        assert event.query() and time.monotonic() - start < 5
        assert y.sum().item() == 64


def test_synchronize_waits_for_every_thread():
    tensors = [zeros() for _ in range(6)]
    gates = [Gate(tensor) for tensor in tensors]
    waiter = Background(torch.mps.synchronize)
    for gate in gates:
        time.sleep(0.02)
        assert waiter.is_running()
        gate.__exit__()
    waiter.result(10)
    assert [tensor.sum().item() for tensor in tensors] == [64] * 6


def test_recording_does_not_wait():
    x, event = zeros(), torch.mps.Event()
    with Gate(x) as gate:
        start = time.monotonic()
        event.record(stream_of(gate))
        event.query()
        assert time.monotonic() - start < 5


# --- across threads -------------------------------------------------------------------------------------------


def test_what_is_recorded_in_one_thread_is_waited_for_in_another():
    """The waiting thread's later work starts after the event, also where it touches other memory."""
    x, event = zeros(), torch.mps.Event()
    with Gate(x) as gate:
        event.record(stream_of(gate))
        order = []

        def body():
            event.wait()
            order.append(torch.ones(2, device="mps").sum().item())

        waiter = Background(body)
        time.sleep(0.1)
        assert not order
        gate.open()
        waiter.result(10)
        assert order == [2]


def test_a_stream_waits_for_a_stream():
    x = zeros()
    with Gate(x) as gate:
        ended = []

        def body():
            torch.mps.current_stream().wait_stream(stream_of(gate))
            ended.append(torch.ones(2, device="mps").sum().item())

        waiter = Background(body)
        time.sleep(0.1)
        assert not ended
        gate.open()
        waiter.result(10)
        assert ended == [2]


def test_31_threads_wait_for_one_event():
    x, event = zeros(), torch.mps.Event()
    with Gate(x) as gate:
        event.record(stream_of(gate))
        crowd = Background(run_threads, 30, lambda index: (event.synchronize(), x[index].item())[1])
        time.sleep(0.2)
        assert crowd.is_running() and not event.query()
        gate.open()
        assert crowd.result(30) == [1.0] * 30


def test_a_chain_of_threads_hands_on_by_events():
    length = 16
    value, steps = zeros(), [torch.mps.Event() for _ in range(length + 1)]
    recorded = [threading.Event() for _ in range(length + 1)]
    steps[0].record()
    recorded[0].set()

    def body(index):
        recorded[index].wait()
        steps[index].wait()
        value.mul_(2).add_(index)
        steps[index + 1].record()
        recorded[index + 1].set()

    for _ in range(10):
        value.zero_()
        for flag in recorded[1:]:
            flag.clear()
        run_threads(length, body)
        steps[length].synchronize()
        expected = 0
        for index in range(length):
            expected = expected * 2 + index
        assert value.tolist() == [expected] * 64


def test_one_event_recorded_by_many_threads_is_each_time_a_whole_point():
    event = torch.mps.Event(enable_timing=True)

    def body(index):
        for _ in range(100):
            torch.ones(4, device="mps").add_(1)
            event.record()
            event.synchronize()
            event.wait()
            event.query()

    run_threads(8, body)
    assert event.query() is True


# --- reuse, never recorded, timing ------------------------------------------------------------------------------


def test_recording_again_moves_the_event_and_who_waits_goes_on_for_the_old_point():
    x, y, event = zeros(), zeros(), torch.mps.Event()
    with Gate(x) as gate:
        event.record(stream_of(gate))
        waiter = Background(event.synchronize)
        time.sleep(0.1)
        y.add_(1)
        event.record()  # the main thread's stream, which is idle
        assert event.query() is True
        event.synchronize()
        assert waiter.is_running(), "it waits for the point that it began with"
        gate.open()
        waiter.result(10)


def test_an_event_is_reused_round_after_round():
    event = torch.mps.Event()

    def body(index):
        mine = torch.mps.Event()
        total = torch.zeros(8, device="mps")
        for number in range(50):
            total.add_(number)
            mine.record()
            mine.synchronize()
            assert mine.query()
            event.record()
        return total[0].item()

    assert run_threads(8, body) == [1225] * 8


def test_an_event_never_recorded_is_not_waited_for():
    event = torch.mps.Event()
    with Gate(zeros()):
        start = time.monotonic()
        event.wait()
        event.synchronize()
        assert event.query() is False
        assert time.monotonic() - start < 5


def test_elapsed_time_is_between_the_threads_that_recorded():
    start, end = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)
    Background(start.record).result()
    time.sleep(0.05)
    Background(end.record).result()
    assert 45 <= start.elapsed_time(end) <= 5000
    assert -5000 <= end.elapsed_time(start) <= -45


def test_elapsed_time_covers_the_work_between():
    x = zeros()
    start, end = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)
    with Gate(x, before=start.record) as gate:
        end.record(stream_of(gate))
        asked = Background(start.elapsed_time, end)
        time.sleep(0.12)
        assert asked.is_running(), "the end has not come yet"
        gate.open()
        assert 100 <= asked.result(10) <= 10_000


@pytest.mark.parametrize(("first", "second"), [(False, True), (True, False), (False, False)])
def test_elapsed_time_without_timing_is_an_error_in_any_thread(first, second):
    start, end = torch.mps.Event(enable_timing=first), torch.mps.Event(enable_timing=second)

    def body(index):
        start.record()
        end.record()
        with pytest.raises(RuntimeError, match="enable_timing=True"):
            start.elapsed_time(end)

    run_threads(2, body)


# --- the interpreter goes on --------------------------------------------------------------------------------------


BLOCKING = [
    pytest.param(lambda x, stream, event: event.synchronize(), id="Event.synchronize"),
    pytest.param(lambda x, stream, event: stream.synchronize(), id="Stream.synchronize"),
    pytest.param(lambda x, stream, event: torch.Stream.synchronize(stream), id="torch.Stream.synchronize"),
    pytest.param(lambda x, stream, event: torch.mps.synchronize(), id="mps.synchronize"),
    pytest.param(lambda x, stream, event: torch.accelerator.synchronize(), id="accelerator.synchronize"),
    pytest.param(lambda x, stream, event: event.wait(), id="Event.wait"),
    pytest.param(lambda x, stream, event: torch.mps.current_stream().wait_stream(stream), id="wait_stream"),
    pytest.param(lambda x, stream, event: event.elapsed_time(event), id="elapsed_time"),
    pytest.param(lambda x, stream, event: x.cpu(), id="cpu"),
    pytest.param(lambda x, stream, event: x[0].item(), id="item"),
    pytest.param(lambda x, stream, event: x + 1, id="op"),
    pytest.param(lambda x, stream, event: x.add_(1), id="in-place op"),
    pytest.param(lambda x, stream, event: torch.linalg.norm(x), id="op of the general path"),
    pytest.param(lambda x, stream, event: x.to(torch.float64), id="to"),
    pytest.param(lambda x, stream, event: x.copy_(torch.ones(64)), id="copy from the CPU"),
    pytest.param(lambda x, stream, event: x.tolist(), id="tolist"),
    pytest.param(lambda x, stream, event: repr(x), id="repr"),
    pytest.param(lambda x, stream, event: bool(x.any()), id="bool"),
]


@pytest.mark.parametrize("call", BLOCKING)
def test_no_wait_holds_the_gil(call):
    x, event = zeros(), torch.mps.Event(enable_timing=True)
    with counting() as count, Gate(x) as gate:
        event.record(stream_of(gate))
        waiter = Background(call, x, stream_of(gate), event)
        time.sleep(0.05)
        before = count()
        wait_until(lambda: count() >= before + 20, 20)  # never, where the waiting thread keeps the GIL
        assert waiter.is_running(), "this call did not wait at all"
        gate.open()
        waiter.result(20)


def test_a_long_op_runs_without_the_gil():
    a = torch.randn(1500, 1500, device="mps")
    with counting() as count:
        start = time.monotonic()
        before = count()
        for _ in range(5):
            a @ a
        spent = time.monotonic() - start
        assert count() - before >= min(20, spent * 1e3 / 20), (count() - before, spent)
