"""`torch.mps.Event`: what it records, what it waits for, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import threading
import time

import pytest
import torch

LONG = 1 << 11


def test_event_never_recorded():
    event = torch.mps.Event()
    assert event.query() is False
    event.wait()
    event.synchronize()
    assert event.query() is False


def test_record_synchronize_query():
    event = torch.mps.Event()
    tensor = torch.arange(1000, device="mps").sum()
    event.record()
    event.synchronize()
    assert event.query() is True
    assert tensor.item() == 499500


def test_event_can_be_recorded_again():
    event = torch.mps.Event()
    for _ in range(5):
        torch.ones(10, device="mps").add_(1)
        event.record()
        event.synchronize()
        assert event.query()


def test_elapsed_time_grows_with_the_work():
    start, middle, end = (torch.mps.Event(enable_timing=True) for _ in range(3))
    start.record()
    middle.record()
    time.sleep(0.02)
    torch.ones(16, device="mps") + 1
    end.record()
    assert 0 <= start.elapsed_time(middle) <= start.elapsed_time(end)
    assert start.elapsed_time(end) >= 15
    assert isinstance(start.elapsed_time(end), float)


def test_elapsed_time_without_timing_is_an_error():
    start, end = torch.mps.Event(), torch.mps.Event(enable_timing=True)
    start.record()
    end.record()
    for pair in ((start, end), (end, start)):
        with pytest.raises(RuntimeError, match="enable_timing=True"):
            pair[0].elapsed_time(pair[1])


@pytest.mark.parametrize(("recorded", "text"), [((), "recorded"), ((0,), "[Ee]nd event"), ((1,), "[Ss]tart event")])
def test_elapsed_time_of_an_event_never_recorded_is_an_error(recorded, text):
    events = [torch.mps.Event(enable_timing=True) for _ in range(2)]
    for index in recorded:
        events[index].record()
    with pytest.raises(RuntimeError, match=text):
        events[0].elapsed_time(events[1])


def test_elapsed_time_of_something_else_is_a_type_error():
    with pytest.raises(TypeError, match="torch.mps.Event, not str"):
        torch.mps.Event(enable_timing=True).elapsed_time("later")


def test_record_and_wait_take_a_stream():
    first, second = torch.mps.Stream(), torch.Stream(device="mps")
    event = torch.mps.Event()
    event.record(first)
    event.record(stream=second)
    event.wait(stream=first)
    event.wait(second)
    event.synchronize()
    assert event.query()
    with pytest.raises(TypeError, match="expected a torch.mps.Stream"):
        event.record("stream")


def test_recorded_in_one_thread_waited_for_in_another(in_threads):
    event, recorded = torch.mps.Event(), threading.Event()
    box = {}

    def body(index):
        if index == 0:
            box["tensor"] = torch.full((1000,), 2.0, device="mps")
            event.record()
            recorded.set()
            return None
        recorded.wait()
        event.wait()
        return box["tensor"].sum().item()

    assert in_threads(2, body)[1] == 2000


def test_first_device_call_of_a_thread_can_be_an_event(in_threads):
    def body(index):
        event = torch.mps.Event()
        event.record()
        event.synchronize()
        return event.query(), torch.mps.current_stream().stream_id != 0

    assert in_threads(4, body) == [(True, True)] * 4


def test_making_asking_and_freeing_an_event_takes_no_slot(in_threads):
    from rivulet import _load

    recorded = torch.mps.Event()
    recorded.record()

    def body(index):
        event = torch.mps.Event()
        event.query()
        recorded.query()
        recorded.synchronize()
        del event
        torch.mps.synchronize()
        torch.mps.empty_cache()
        return _load.native().stream_peek()

    assert in_threads(2, body) == [None, None]


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_event_cannot_be_pickled_or_copied(duplicate):
    with pytest.raises(TypeError, match="cannot pickle or copy a torch.mps.Event"):
        duplicate(torch.mps.Event())


def test_a_generic_event_cannot_be_pickled():
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(torch.Event(device="mps"))


def test_many_events_leak_nothing():
    for _ in range(20_000):
        event = torch.mps.Event()
        event.record()
        del event
    assert torch.ones(2, device="mps").sum().item() == 2


def test_event_gives_its_handle_back(monkeypatch):
    from rivulet import _load

    freed = []
    monkeypatch.setitem(_load.native().c, "rivulet_event_free", freed.append)
    event = torch.mps.Event()
    handle = event._event
    assert freed == []
    del event
    assert freed == [handle]


def test_event_waits_for_the_operation_that_runs_on_its_stream():
    """Another thread is inside one long operation of a stream; an event recorded there comes after it."""
    a = torch.randn(LONG, LONG, dtype=torch.float64, device="mps")
    stream, begun = torch.mps.Stream(), threading.Event()

    def busy():
        with stream:
            torch.ones(1, device="mps")
            begun.set()
            for _ in range(3):
                torch.linalg.multi_dot([a, a, a])

    worker = threading.Thread(target=busy)
    worker.start()
    begun.wait()
    time.sleep(0.05)
    event = torch.mps.Event()
    event.record(stream)
    before = event.query()
    event.synchronize()
    after = event.query()
    worker.join()
    assert after is True
    if before:
        pytest.skip("the operation was over too soon to tell")


def test_class_is_where_pytorch_has_it():
    import torch.mps.event

    assert torch.mps.event.Event is torch.mps.Event
    assert torch.mps.Event.__module__ == "torch.mps.event" and torch.mps.Event.__name__ == "Event"


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(lambda event, stream: torch.mps.synchronize(), id="torch.mps.synchronize"),
        pytest.param(lambda event, stream: torch.accelerator.synchronize(), id="torch.accelerator.synchronize"),
        pytest.param(lambda event, stream: stream.synchronize(), id="Stream.synchronize"),
        pytest.param(lambda event, stream: torch.Stream.synchronize(stream), id="torch.Stream.synchronize"),
    ],
)
def test_no_wait_holds_the_gil(wait):
    """While a long operation of another thread is waited for, a third thread goes on counting."""
    a = torch.randn(LONG, LONG, device="mps")
    streams = []
    begun, over = threading.Event(), threading.Event()
    counted = 0

    def busy():
        streams.append(torch.mps.current_stream())
        begun.set()
        for _ in range(6):
            a @ a

    def count():
        nonlocal counted
        while not over.is_set():
            counted += 1
            time.sleep(0.001)

    workers = [threading.Thread(target=busy), threading.Thread(target=count)]
    for worker in workers:
        worker.start()
    begun.wait()
    time.sleep(0.02)
    before, start = counted, time.monotonic()
    wait(None, streams[0])
    waited, progress = time.monotonic() - start, counted - before
    over.set()
    for worker in workers:
        worker.join()
    if waited < 0.02:
        pytest.skip(f"the work was over too soon to tell ({waited * 1000:.1f} ms)")
    assert progress > waited * 1000 / 20, f"{progress} steps in {waited * 1000:.0f} ms"


@pytest.mark.parametrize(
    "wait",
    [
        "torch.mps.synchronize()",
        "torch.accelerator.synchronize()",
        "stream.synchronize()",
        "torch.Stream.synchronize(stream)",
        "event.synchronize()",
        "generic.synchronize()",
    ],
)
def test_ctrl_c_ends_a_wait(run_python, wait):
    run_python(f"""
import os, signal, threading, time, torch
a = torch.randn(2000, 100, dtype=torch.float64, device="mps")
def distances(rows):
    # One long op; a matrix power would be many, and an event recorded between two of them.
    start = time.monotonic()
    torch.cdist(a[:rows], a, p=1.5)
    return time.monotonic() - start

distances(20)  # starts threads, touches memory
rows = int(20 * 3 / min(distances(20) for _ in range(3)))
stream, begun = torch.mps.Stream(), threading.Event()
ended = []

def busy():
    with stream:
        torch.ones(1, device="mps")
        begun.set()
        torch.cdist(a[torch.arange(rows) % 2000], a, p=1.5)
    ended.append(time.monotonic())

worker = threading.Thread(target=busy)
worker.start()
begun.wait()
time.sleep(0.1)
event, generic = torch.mps.Event(), torch.Event(device="mps")
event.record(stream)
generic.record(stream)
start = time.monotonic()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    {wait}
    raise AssertionError(f"not interrupted, {{time.monotonic() - start:.2f}} s")
except KeyboardInterrupt:
    interrupted = time.monotonic()
assert not ended and interrupted - start < 1.5, (ended, interrupted - start)
worker.join()
torch.mps.synchronize()
assert torch.ones(3, device="mps").sum().item() == 3
""")
