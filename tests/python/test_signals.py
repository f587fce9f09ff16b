"""Ctrl-C while the main thread, or a worker, waits for the device: KeyboardInterrupt at once, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import torch
from threads_support import (
    Background,
    Gate,
    Holders,
    finish_process,
    fresh_process,
    start_process,
    wait_until,
    waiting_threads,
)

#: Handlers run every 50 ms; the rest is for a machine that has other things to do.
PROMPT = 2.0


def zeros():
    return torch.zeros(64, device="mps")


def waits(stream, event, x):
    """Every kind of wait, by name."""

    def on_busy_stream():
        with torch.mps.stream(stream):
            torch.ones(2, device="mps")

    return {
        "Event.synchronize": event.synchronize,
        "Event.wait": event.wait,
        "Event.elapsed_time": lambda: event.elapsed_time(event),
        "Stream.synchronize": stream.synchronize,
        "torch.Stream.synchronize": lambda: torch.Stream.synchronize(stream),
        "Stream.wait_stream": lambda: torch.mps.current_stream().wait_stream(stream),
        "mps.synchronize": torch.mps.synchronize,
        "accelerator.synchronize": torch.accelerator.synchronize,
        "a block that another thread writes, hot op": lambda: x + 1,
        "a block that another thread writes, in place": lambda: x.add_(1),
        "a block that another thread writes, general path": lambda: torch.linalg.norm(x),
        "a copy from it": lambda: x.cpu(),
        "a copy to it": lambda: x.copy_(torch.zeros(64)),
        "item": lambda: x[0].item(),
        "repr": lambda: repr(x),
        "the turn on a busy stream": on_busy_stream,
    }


def interrupted(call):
    """Seconds from the signal to KeyboardInterrupt."""
    sent = []

    def send():
        time.sleep(0.1)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        call()
    except KeyboardInterrupt:
        came = time.monotonic()
        sender.join()
        return came - sent[0]
    sender.join()
    raise AssertionError("the wait ended without KeyboardInterrupt")


def check_every_wait():
    x, event = zeros(), torch.mps.Event(enable_timing=True)
    with Gate(x) as gate:
        stream = torch.mps.Stream(stream_id=gate.stream)
        event.record(stream)
        for name, call in waits(stream, event, x).items():
            seconds = interrupted(call)
            assert seconds < PROMPT, (name, seconds)
            # The next op works, on this stream and thread, while the other is still waited for.
            assert zeros().add_(1).sum().item() == 64, name
            assert not event.query(), name
    # What was interrupted did not happen, and everything can be waited for again.
    assert x.sum().item() == 64
    for name, call in waits(stream, event, x).items():
        call()
        assert torch.ones(2, device="mps").sum().item() == 2, name


def test_ctrl_c_ends_every_wait_of_the_main_thread():
    fresh_process(check_every_wait)


def check_handler_that_does_not_raise():
    """A handler that returns lets the wait go on, as in Python's own waits."""
    calls = []
    signal.signal(signal.SIGUSR1, lambda *_: calls.append(time.monotonic()))
    x = zeros()
    with Gate(x) as gate:
        waiting = threading.Event()

        def disturb():
            waiting.wait()
            for _ in range(3):
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.2)
            assert len(calls) == 3, calls  # they ran during the wait
            gate.open()

        other = Background(disturb)
        waiting.set()
        assert x.sum().item() == 64
        other.result()


class Alarm(Exception):
    pass


def check_handler_with_its_own_exception():
    def handler(*_):
        raise Alarm("late")

    signal.signal(signal.SIGALRM, handler)
    x = zeros()
    with Gate(x):
        for call in (lambda: x.cpu(), torch.mps.synchronize, lambda: x + 1):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            start = time.monotonic()
            try:
                call()
            except Alarm as error:
                assert str(error) == "late"
                assert time.monotonic() - start < 0.1 + PROMPT
            else:
                raise AssertionError("not interrupted")
    assert x.sum().item() == 64


def check_worker_waits_in_the_pool_through_a_signal():
    """Handlers run on the main thread; a worker that waits for a slot is not disturbed and gets it."""
    os.environ["MPS_POOL_BACKPRESSURE"] = "1"
    with Holders() as holders:
        waiter = Background(lambda: zeros().sum().item())
        wait_until(lambda: waiting_threads() == 1)
        assert interrupted(lambda: time.sleep(30)) < PROMPT
        time.sleep(0.2)
        assert waiter.is_running() and waiting_threads() == 1
        holders.end_one()
        assert waiter.result() == 0


def check_handlers():
    check_handler_that_does_not_raise()
    check_handler_with_its_own_exception()
    check_worker_waits_in_the_pool_through_a_signal()


def test_handlers_run_during_a_wait_and_decide_whether_it_goes_on():
    """One that returns, one that raises its own exception, and one that a waiting worker does not notice."""
    fresh_process(check_handlers)


def hang_for_ever(kind):
    """A program that waits, prints `waiting`, and is interrupted from outside; every thread but main is a daemon."""
    x = zeros()
    if kind == "pool":
        os.environ["MPS_POOL_BACKPRESSURE"] = "1"
        Holders()
        waiter = Background(zeros)
        wait_until(lambda: waiting_threads() == 1)
        call = waiter.thread.join
    elif kind == "pool with a timeout":
        os.environ["MPS_POOL_TIMEOUT_MS"] = "600000"
        Holders()
        waiter = Background(zeros)
        wait_until(lambda: waiting_threads() == 1)
        call = waiter.thread.join
    else:
        event = torch.mps.Event(enable_timing=True)
        gate = Gate(x)
        stream = torch.mps.Stream(stream_id=gate.stream)
        event.record(stream)
        call = waits(stream, event, x)[kind]
    print("waiting", flush=True)
    call()


def test_a_program_that_waits_ends_at_ctrl_c():
    kinds = ["pool", "pool with a timeout", "Event.synchronize", "mps.synchronize", "a copy from it"]
    processes = [(kind, start_process(hang_for_ever, kind)) for kind in kinds]
    for kind, process in processes:
        assert process.stdout.readline() == "waiting\n", (kind, process.stderr.read())
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        done = finish_process(process, 30)
        seconds = time.monotonic() - start
        # Python ends itself with the signal after an unhandled KeyboardInterrupt.
        assert done.returncode in (-signal.SIGINT, 130), (kind, done.returncode, done.stderr)
        assert "KeyboardInterrupt" in done.stderr and "Fatal" not in done.stderr, (kind, done.stderr)
        assert seconds < 10, (kind, seconds)


def check_interrupt_storm():
    """Signals at random moments of a working program: each gives KeyboardInterrupt or nothing, never a wrong value."""
    x = zeros()
    over, armed, interrupts = threading.Event(), False, 0

    def handler(*_):
        nonlocal armed
        if armed:
            armed = False  # one at a time, so that none comes where it is not caught
            raise KeyboardInterrupt

    def storm():
        while not over.is_set():
            time.sleep(0.003)
            os.kill(os.getpid(), signal.SIGINT)

    def write():
        while not over.is_set():
            x.add_(1)

    signal.signal(signal.SIGINT, handler)
    writer, sender = Background(write), Background(storm)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            armed = True
            values = x.cpu()
            assert (values == values[0]).all()
            torch.mps.synchronize()
            y = x * 0 + 1
            assert y.sum().item() == 64
            armed = False
        except KeyboardInterrupt:
            interrupts += 1
    over.set()
    sender.result()
    writer.result()
    assert interrupts > 20, interrupts
    assert zeros().add_(1).sum().item() == 64


def test_a_storm_of_signals_loses_nothing():
    fresh_process(check_interrupt_storm)
