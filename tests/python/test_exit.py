"""Programs that end while threads still use the device: exit code 0, nothing printed, nothing left hanging."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

_left_over: list = []


def after_the_devices_end():
    for x in _left_over:
        try:
            (x + 1).cpu()
        except RuntimeError as error:
            assert "exiting" in str(error), error
    _left_over.clear()


# Such functions run in the reverse order of their registration, and the device's own is registered by `import torch`.
atexit.register(after_the_devices_end)

import pytest  # noqa: E402
import torch  # noqa: E402
from threads_support import WORKERS, Background, Gate, finish_process, start_process  # noqa: E402

#: Ends of one program by fork: the interpreter with torch is started once, and each child ends in the way under test.
ROUNDS = [2, pytest.param(50, marks=pytest.mark.slow)]


def work(stop=None):
    model = torch.nn.Linear(16, 16).to("mps")
    event = torch.mps.Event(enable_timing=True)
    while stop is None or not stop.is_set():
        y = model(torch.randn(4, 16, device="mps"))
        y.sum().backward()
        event.record()
        event.synchronize()
        y.detach().cpu()


def start_workers(count, daemon, body=work):
    ready = threading.Barrier(count + 1)

    def run():
        torch.ones(2, device="mps")
        ready.wait()
        body()

    threads = [threading.Thread(target=run, daemon=daemon) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    return threads


# --- the ways to end -----------------------------------------------------------------------------------------------


def daemon_threads():
    """Eight threads in the midst of forward and backward."""
    start_workers(8, daemon=True)
    time.sleep(0.05)


def all_31_daemon_threads():
    start_workers(WORKERS, daemon=True)


def threads_that_are_joined_at_exit():
    """Python joins threads that are no daemons before anything else ends."""
    stop = threading.Event()
    start_workers(8, daemon=False, body=lambda: work(stop))
    threading.Timer(0.05, stop.set).start()


def a_thread_that_waits():
    """A daemon waits for an op that never ends."""
    x = torch.zeros(8, device="mps")
    Gate(x)
    Background(x.cpu)
    Background(torch.mps.synchronize)
    time.sleep(0.02)


def threads_that_wait_for_a_slot():
    os.environ["MPS_POOL_BACKPRESSURE"] = "1"

    def hold():
        torch.mps.set_stream(torch.mps.Stream())
        time.sleep(3600)

    start_workers(WORKERS, daemon=True, body=hold)
    for _ in range(4):
        Background(lambda: torch.ones(2, device="mps"))
    time.sleep(0.02)


def work_in_atexit():
    """A function that is registered after `import torch` runs before the device's end: everything still works."""
    x = torch.ones(4, device="mps")

    def last():
        assert (x + 1).sum().item() == 8
        torch.mps.synchronize()

    atexit.register(last)
    start_workers(4, daemon=True)


def work_in_an_early_atexit():
    """One that was registered before runs after it: what it asks for works or is refused with a sentence."""
    _left_over.append(torch.ones(4, device="mps"))
    start_workers(4, daemon=True)


def garbage_at_the_end():
    """Tensors, events, streams and graphs in cycles and module globals, freed while the interpreter goes away."""

    class Node:
        def __init__(self):
            self.me = self
            self.tensor = torch.ones(1000, device="mps", requires_grad=True)
            self.loss = (self.tensor * 2).sum()
            self.event = torch.mps.Event()
            self.event.record()
            self.stream = torch.mps.Stream()

        def __del__(self):
            # Python may run this in the last collection.
            self.tensor.detach().add_(1)

    sys.modules["garbage"] = Node()
    keep = [Node() for _ in range(20)]
    gc.disable()
    threading.local().node = Node()
    weakref.finalize(keep[0], lambda event: event.query(), torch.mps.Event())
    sys.keep = keep
    start_workers(4, daemon=True)


def garbage_in_a_thread():
    """Collections run on threads too, while the main thread ends."""

    def churn():
        while True:
            box = [torch.ones(100, device="mps"), torch.mps.Event()]
            box.append(box)
            del box
            gc.collect(0)

    start_workers(4, daemon=True, body=churn)
    time.sleep(0.02)


def sys_exit_in_main():
    start_workers(4, daemon=True)
    sys.exit(0)


def an_exit_inside_a_stream():
    torch.mps.Stream().__enter__()
    torch.ones(2, device="mps")
    start_workers(2, daemon=True)


WAYS = [
    daemon_threads,
    all_31_daemon_threads,
    threads_that_are_joined_at_exit,
    a_thread_that_waits,
    threads_that_wait_for_a_slot,
    work_in_atexit,
    work_in_an_early_atexit,
    garbage_at_the_end,
    garbage_in_a_thread,
    sys_exit_in_main,
    an_exit_inside_a_stream,
]


#: Children that end at the same time.
AT_ONCE = 4


def exit_code(pid, deadline):
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGABRT)
            os.waitpid(pid, 0)
            return "none: it never ended"
        time.sleep(0.002)


def end_on_request(errors):
    """Reads ways to end from standard input, each with a number of rounds, and says how they went.

    torch is imported once, here, and never used; each child then uses the device for the first time and ends, as a
    program of its own.
    """
    sys.stderr.flush()
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    while request := sys.stdin.readline().split():
        way, rounds = globals()[request[0]], int(request[1])
        codes = []
        for first in range(0, rounds, AT_ONCE):
            children = []
            for _ in range(first, min(first + AT_ONCE, rounds)):
                pid = os.fork()
                if pid == 0:
                    way()
                    return  # on to the end of the program
                children.append(pid)
            deadline = time.monotonic() + 60
            codes += [exit_code(pid, deadline) for pid in children]
        ill = {round: code for round, code in enumerate(codes) if code != 0}
        print(f"rounds with another exit code: {ill}" if ill else "all ended with exit code 0", flush=True)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    errors = tmp_path_factory.mktemp("exit") / "errors"
    errors.touch()
    process = start_process(end_on_request, str(errors), stdin=subprocess.PIPE)

    def ask(way, rounds):
        before = errors.stat().st_size
        print(way.__name__, rounds, file=process.stdin, flush=True)
        answer = process.stdout.readline()
        return answer.strip(), errors.read_text()[before:]

    yield ask
    assert finish_process(process).returncode == 0


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_exit_code_is_0_and_nothing_is_printed(ends, way, rounds):
    assert ends(way, rounds) == ("all ended with exit code 0", "")
