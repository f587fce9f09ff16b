"""Events and streams: what a wait covers, in which order things happen, and which stream a thread is on."""

from __future__ import annotations

import threading
import time

import torch

from ..busy import busy_work
from ..crew import THREADS, apart, crew
from ..registry import Check, Context, Failed


def checks(context: Context) -> list[Check]:
    return [
        Check("an event is complete after its wait, and so is the work before it", _wait_covers),
        Check("an event that was never recorded holds nobody up", _never_recorded),
        Check("elapsed_time is ordered and adds up", _elapsed),
        Check("elapsed_time without timing is refused", _no_timing),
        Check("a stream that waits for an event sees what came before it", _cross_stream),
        Check("an event recorded on one thread is waited for on others", _other_threads),
        Check("threads synchronise at once", _synchronise),
        Check("Stream.synchronize waits for its own stream alone", _own_stream),
        Check("every thread has its own current stream, before and after", _current),
        Check("a stream that is set is left with its block", _context),
        Check("threads that end give their streams back", _given_back),
        Check("thousands of events", _thousands),
    ]


def _expect(right: bool, text: str) -> None:
    if not right:
        raise Failed(text)


def _wait_covers(context: Context) -> None:
    for number in context.rounds(10, 100, 4.0):
        x = torch.zeros(1 << 14, device="mps")
        event = torch.mps.Event()
        for _ in range(20):
            x.add_(1)
        event.record()
        event.synchronize()
        _expect(event.query(), f"round {number}: query() is False after synchronize()")
        # Not a wait of its own any more, on a device that completes in order.
        _expect(bool((x.cpu() == 20).all()), f"round {number}: {x.max().item()} after 20 additions of 1")


def _never_recorded(context: Context) -> None:
    event = torch.mps.Event()
    _expect(not event.query(), "query() of a new event is True")
    event.synchronize()
    event.wait()
    _expect(torch.ones(4, device="mps").sum().item() == 4, "an op behind the wait came out wrong")


def _elapsed(context: Context) -> None:
    events = [torch.mps.Event(enable_timing=True) for _ in range(4)]
    work = busy_work()
    for event in events:
        event.record()
        work()
    torch.mps.synchronize()
    times = [events[0].elapsed_time(event) for event in events[1:]]
    context.facts["milliseconds"] = [round(value, 4) for value in times]
    _expect(all(value >= 0 for value in times) and times == sorted(times), f"times of events in a row: {times} ms")
    parts = [one.elapsed_time(two) for one, two in zip(events, events[1:])]
    _expect(abs(sum(parts) - times[-1]) <= 0.01 + 0.01 * times[-1], f"{parts} ms do not add up to {times[-1]} ms")
    begun = time.monotonic()
    first, last = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)
    first.record()
    for _ in range(5):
        work()
    last.record()
    last.synchronize()
    wall = (time.monotonic() - begun) * 1000
    _expect(first.elapsed_time(last) <= wall + 5, f"{first.elapsed_time(last)} ms between events, {wall} ms by the clock")


def _no_timing(context: Context) -> None:
    first, last = torch.mps.Event(), torch.mps.Event()
    first.record()
    last.record()
    torch.mps.synchronize()
    try:
        value = first.elapsed_time(last)
    except RuntimeError as error:
        _expect("enable_timing" in str(error), f"the error does not name enable_timing: {error}")
    else:
        raise Failed(f"elapsed_time of events without timing gave {value}")


def _cross_stream(context: Context) -> None:
    work = busy_work()
    one, two = torch.mps.Stream(), torch.mps.Stream()
    for number in context.rounds(5, 50, 4.0):
        x = torch.zeros(4096, device="mps")
        event = torch.mps.Event()
        with torch.mps.stream(one):
            work()
            x.fill_(number)
            event.record()
        with torch.mps.stream(two):
            event.wait()
            y = x + 1
        one.wait_stream(two)
        with torch.mps.stream(one):
            z = y + 1
        got = (y.cpu().unique().tolist(), z.cpu().unique().tolist())
        _expect(got == ([number + 1], [number + 2]), f"round {number}: {got} instead of {number + 1} and {number + 2}")


def _other_threads(context: Context) -> None:
    for number in context.rounds(3, 20, 4.0):
        event = torch.mps.Event()
        x = torch.zeros(4096, device="mps")
        torch.mps.synchronize()
        recorded = threading.Event()

        def body(index: int, x: torch.Tensor = x, event: torch.mps.Event = event, number: int = number) -> None:
            if index == 0:
                try:
                    x.fill_(number)
                    event.record()
                finally:
                    recorded.set()
                return
            _expect(recorded.wait(context.wait), "the recording thread did not come")
            event.wait() if index % 2 else event.synchronize()
            got = x.cpu().unique().tolist()
            _expect(got == [number], f"round {number}, thread {index}: {got} instead of {number}")

        crew(9, body)


def _synchronise(context: Context) -> None:
    steps = 5 if context.quick else 40

    def body(index: int) -> None:
        x = torch.zeros(512, device="mps")
        for step in range(steps):
            x.add_(1)
            torch.mps.synchronize()
            context.progress()
            got = x.cpu().unique().tolist()
            _expect(got == [step + 1], f"thread {index}, step {step}: {got}")

    crew(16, body)


def _own_stream(context: Context) -> None:
    stream = torch.mps.Stream()
    x = torch.zeros(512, device="mps")
    with torch.mps.stream(stream):
        x.add_(1)
    stream.synchronize()
    _expect(stream.query(), "query() is False after Stream.synchronize()")
    _expect(x.cpu().unique().tolist() == [1], "the work of the stream is not there")


def _current(context: Context) -> None:
    main = torch.mps.current_stream().stream_id
    together = threading.Barrier(THREADS)

    def body(index: int) -> tuple[int, int]:
        torch.ones(1, device="mps")
        before: int = torch.mps.current_stream().stream_id
        together.wait(context.wait)
        (torch.ones(8, device="mps") * index).sum().item()
        return before, torch.mps.current_stream().stream_id

    found = crew(THREADS, body)
    moved = [pair for pair in found if pair[0] != pair[1]]
    _expect(not moved, f"threads changed their streams between two ops: {moved}")
    numbers = {pair[0] for pair in found}
    _expect(len(numbers) == THREADS and main not in numbers, f"{THREADS} threads on streams {sorted(numbers)}, main {main}")
    _expect(torch.mps.current_stream().stream_id == main, "the main thread's stream has changed")


def _context(context: Context) -> None:
    before = torch.mps.current_stream()
    stream = torch.mps.Stream()
    with torch.mps.stream(stream):
        _expect(torch.mps.current_stream() == stream, "the block is not on its stream")
        inner = apart(lambda: torch.mps.current_stream().stream_id)
        _expect(inner != stream.stream_id, "another thread is on this thread's stream")
    _expect(torch.mps.current_stream() == before, "the stream stays set behind its block")


def _given_back(context: Context) -> None:
    for _ in context.rounds(2, 10, 6.0):
        sums = crew(THREADS, lambda index: torch.full((8,), float(index), device="mps").sum().item())
        _expect(sums == [8.0 * index for index in range(THREADS)], f"sums of {THREADS} threads: {sums}")


def _thousands(context: Context) -> None:
    count = 500 if context.quick else 5000
    x = torch.zeros(64, device="mps")
    kept = []
    for number in range(count):
        x.add_(1)
        event = torch.mps.Event()
        event.record()
        if number % 10 == 0:
            kept.append(event)
        context.progress()
    kept[-1].synchronize()
    _expect(all(event.query() for event in kept), "an earlier event of a stream is not complete with a later one")
    _expect(x.cpu().unique().tolist() == [count], f"{x.max().item()} after {count} additions")


