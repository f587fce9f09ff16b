"""What the thread tests share: fresh processes, threads that hold slots, and an op that runs until it is told to end."""

from __future__ import annotations

import atexit
import importlib
import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rivulet.selftest.crew import crew as run_threads

HERE = Path(__file__).resolve().parent
WORKERS = 31  # of a pool of 32: the main thread has the other slot

_RUN = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
body = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])
body(*json.loads(sys.argv[4]))
"""


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any of the device's settings, plus `extra`."""
    ours = ("MPS_", "PYTORCH_MPS_", "PYTORCH_ENABLE_MPS_", "RIVULET_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours) or k == "RIVULET_LIBRARY"}
    return {**kept, **(extra or {})}


def start_process(
    body: Callable[..., Any], *args: Any, env: dict[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Starts a function of a test module in an interpreter of its own; arguments travel as JSON.

    The process gets none of the device's settings but those in `env`, and a process group of its own, so that a
    signal can be sent to it and its children alone.
    """
    module = Path(inspect.getfile(body)).stem
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", _RUN, str(HERE), module, body.__name__, json.dumps(args)],
        env=clean_environment(env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish_process(process: subprocess.Popen[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Waits for a process; one that hangs shows its threads' stacks and is killed with its children."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # faulthandler answers SIGABRT with the Python stacks of all threads.
        process.send_signal(signal.SIGABRT)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def fresh_interpreter(
    body: Callable[..., Any], *args: Any, env: dict[str, str] | None = None, timeout: float = 120, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a function of a test module in an interpreter of its own, which must exit with `code`."""
    done = finish_process(start_process(body, *args, env=env), timeout)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class _Nursery:
    """A process that has imported torch, used nothing of it, and forks a child for each request.

    The child's device is its own, as that of every child forked before the first use, at a tenth of the cost of an
    interpreter. Its standard output and error go to files.
    """

    def __init__(self) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="rivulet-tests-")
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", _NURSERY, str(HERE)],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, function: str, args: Any, env: dict[str, str] | None, timeout: float) -> Any:
        out, err = Path(self._files.name, "out"), Path(self._files.name, "err")
        for file in (out, err):
            file.write_text("")
        request = {"module": module, "function": function, "args": args, "env": clean_environment(env)}
        request |= {"out": str(out), "err": str(err)}
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            os.kill(pid, signal.SIGABRT)
            time.sleep(1)
            os.killpg(pid, signal.SIGKILL)

        killer = threading.Timer(timeout, kill)
        killer.start()
        code = int(self._process.stdout.readline())
        killer.cancel()
        shown = f"{out.read_text()}\n{err.read_text()}"
        assert not timed_out.is_set(), f"still running after {timeout} s\n{shown}"
        return subprocess.CompletedProcess([function], code, out.read_text(), err.read_text())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._files.cleanup()


_NURSERY = """
import sys
sys.path.insert(0, sys.argv[1])
import pytest, torch, torch.multiprocessing
import threads_support
threads_support.serve_forks()
"""


def serve_forks() -> None:
    """What the nursery does. Returns in the children, which then end as every program does."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for number, path in ((1, request["out"]), (2, request["err"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.clear()
            os.environ.update(request["env"])
            if "OMP_NUM_THREADS" in os.environ:
                torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            getattr(importlib.import_module(request["module"]), request["function"])(*request["args"])
            return
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


_nursery: _Nursery | None = None


def fresh_process(
    body: Callable[..., Any], *args: Any, env: dict[str, str] | None = None, timeout: float = 120, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs a function of a test module in a process that has not used the device; it must exit with `code`.

    The process gets none of the device's settings but those in `env`; arguments travel as JSON.
    """
    global _nursery
    if _nursery is None:
        _nursery = _Nursery()
        atexit.register(_nursery.close)
    done = _nursery.run(Path(inspect.getfile(body)).stem, body.__name__, args, env, timeout)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Background:
    """A function on a thread of its own: `result()` waits for it, and raises what it raised."""

    def __init__(self, body: Callable[..., Any], *args: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self.started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(body, args), daemon=True)
        self.thread.start()
        self.started.wait()

    def _run(self, body: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.started.set()
        try:
            self._value = body(*args)
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def is_running(self) -> bool:
        return self.thread.is_alive()

    def result(self, timeout: float = 60) -> Any:
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"a thread still runs after {timeout} s"
        if self._error is not None:
            raise self._error
        return self._value


def wait_until(condition: Callable[[], Any], timeout: float = 30) -> None:
    """Returns once the condition holds; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {inspect.getsource(condition).strip()}"
        time.sleep(0.001)


# --- the pool -------------------------------------------------------------------------------------------------


def pool() -> dict[str, Any]:
    """The pool as the runtime sees it: size, used slots, waiting threads."""
    from rivulet import _load

    found = _load.native().report().get("pool")
    return found if found is not None else {"size": 0, "used": [], "waiting": 0}


def used_slots() -> int:
    return len(pool()["used"])


def waiting_threads() -> int:
    return int(pool()["waiting"])


class Holders:
    """Threads that each took a slot and keep it.

    With `explicit` (the default) each has set a stream of its own choice, so that no mode takes its slot from it;
    without, they are merely idle.
    """

    def __init__(self, count: int = WORKERS, explicit: bool = True) -> None:
        self._explicit = explicit
        self._ends: list[threading.Event] = []
        self.threads: list[threading.Thread] = []
        self.ids: list[int] = []
        self.streams: list[int] = []
        self._errors: list[BaseException] = []
        for _ in range(count):
            self.add()

    def add(self) -> None:
        ready, end = threading.Event(), threading.Event()

        def hold() -> None:
            try:
                self.streams.append(torch.mps.current_stream().stream_id)
                self.ids.append(threading.get_native_id())
                assert torch.ones(4, device="mps").sum().item() == 4
                if self._explicit:
                    torch.mps.set_stream(torch.mps.Stream())
            except BaseException as error:  # noqa: BLE001 - raised again by add()
                self._errors.append(error)
            ready.set()
            end.wait()

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        ready.wait()
        self._ends.append(end)
        self.threads.append(thread)
        if self._errors:
            raise self._errors.pop()

    def end_one(self) -> None:
        """Ends the thread that came first, and joins it."""
        self._ends.pop(0).set()
        self.threads.pop(0).join()

    def __enter__(self) -> Holders:
        return self

    def __exit__(self, *exception: object) -> None:
        while self.threads:
            self.end_one()


# --- an op that runs as long as a test wants ------------------------------------------------------------------

_gates: dict[int, Gate] = {}
_gate_numbers = itertools.count(1)
_library: torch.library.Library | None = None


def _define_gates() -> None:
    """Ops with a CPU kernel in Python: on mps they take the CPU path, which holds their operand until they return."""
    global _library
    if _library is None:
        library = torch.library.Library("rivulet_test", "DEF")
        library.define("gate_read(Tensor x, int number) -> Tensor")
        library.define("gate_write(Tensor(a!) x, int number) -> ()")
        library.impl("gate_read", lambda x, number: _gates[number].pass_through(x).clone(), "CPU")
        library.impl("gate_write", lambda x, number: _gates[number].write(x), "CPU")
        _library = library


class Gate:
    """An op on a thread of its own that reads or writes `tensor` until `open()`.

    A write adds 1 to every element at its very end, so that who does not wait for it sees the old values.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        write: bool = True,
        before: Callable[[], Any] | None = None,
        wait_for_start: bool = True,
    ) -> None:
        _define_gates()
        self._number = next(_gate_numbers)
        self._open = threading.Event()
        self.inside = threading.Event()
        self.stream = -1
        _gates[self._number] = self

        def body() -> Any:
            try:
                if before is not None:
                    before()
                op = torch.ops.rivulet_test.gate_write if write else torch.ops.rivulet_test.gate_read
                return op(tensor, self._number)
            finally:
                self.inside.set()

        self.run = Background(body)
        if wait_for_start:
            self.inside.wait()

    def pass_through(self, x: torch.Tensor) -> torch.Tensor:
        self.stream = torch.mps.current_stream().stream_id
        self.inside.set()
        assert self._open.wait(60), "the gate was never opened"
        return x

    def write(self, x: torch.Tensor) -> None:
        self.pass_through(x)
        x.add_(1)

    def open(self) -> None:
        self._open.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exception: object) -> None:
        self.open()
        self.run.result()
        del _gates[self._number]


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """A Python thread that counts for as long as it gets the GIL; the answer gives the count so far."""
    count, over = 0, threading.Event()

    def body() -> None:
        nonlocal count
        while not over.is_set():
            count += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        yield lambda: count
    finally:
        over.set()
        thread.join()


@contextmanager
def one_kernel_thread() -> Iterator[None]:
    """Kernels of this and of new threads use one thread each: how a sum is split then depends on nothing else."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- values ---------------------------------------------------------------------------------------------------


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    """Fails unless both have the same dtype, shape and bits (all NaNs count as one)."""
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, (what, actual.shape, expected.shape)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{what}: {text}")


def resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
