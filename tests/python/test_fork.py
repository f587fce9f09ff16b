"""Processes forked before and after the first use of the device, and started anew."""

from __future__ import annotations

import gc
import http.client
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest
import torch
from threads_support import (
    Background,
    Gate,
    clean_environment,
    fresh_interpreter,
    fresh_process,
    used_slots,
)

TIMEOUT = 60


def in_child(body, timeout=TIMEOUT):
    """Runs body() in a forked child, which must return, and exit as Python does: with atexit and finalisers."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except SystemExit:
            raise  # a grandchild on its way out
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        raise SystemExit(0)  # through all finalisers, to the end of the script
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 6)
            os.waitpid(pid, 0)
            raise AssertionError(f"the child still ran after {timeout} s")
        time.sleep(0.005)
    assert os.waitstatus_to_exitcode(status) == 0, f"exit code {os.waitstatus_to_exitcode(status)}"


def one_op():
    return torch.ones(4, device="mps").add_(1).sum().item()


def assert_cpu_works():
    a = torch.arange(6.0).reshape(2, 3)
    assert (a @ a.t()).tolist() == [[5.0, 14.0], [14.0, 50.0]]
    torch.manual_seed(3)
    assert torch.rand(3).shape == (3,)
    w = torch.ones(3, requires_grad=True)
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2.0, 2.0, 2.0]
    model = torch.nn.Linear(3, 2)
    assert model(a).shape == (2, 2)


def refused(call):
    try:
        call()
    except RuntimeError as error:
        text = str(error)
        assert "forked" in text and "spawn" in text and "before the first use" in text, text
    else:
        raise AssertionError("not refused")


def touches(x, event, stream):
    """Everything that reaches the device."""
    return {
        "factory": lambda: torch.ones(2, device="mps"),
        "random": lambda: torch.randn(2, device="mps"),
        "op": lambda: x + 1,
        "general path": lambda: torch.linalg.norm(x),
        "in place": lambda: x.add_(1),
        "to cpu": lambda: x.cpu(),
        "item": lambda: x[0].item(),
        "to mps": lambda: torch.ones(2).to("mps"),
        "module": lambda: torch.nn.Linear(2, 2).to("mps"),
        "synchronize": lambda: torch.mps.synchronize(),
        "accelerator.synchronize": lambda: torch.accelerator.synchronize(),
        "current_stream": lambda: torch.mps.current_stream(),
        "Stream": lambda: torch.mps.Stream(),
        "Stream.synchronize": lambda: stream.synchronize(),
        "Stream.query": lambda: stream.query(),
        "set_stream": lambda: torch.mps.set_stream(stream),
        "Event": lambda: torch.mps.Event(),
        "Event.record": lambda: event.record(),
        "Event.query": lambda: event.query(),
        "Event.synchronize": lambda: event.synchronize(),
        "Event.wait": lambda: event.wait(),
        "pin_memory": lambda: torch.ones(2).pin_memory(),
        "empty_cache": lambda: torch.mps.empty_cache(),
        "allocated": lambda: torch.mps.current_allocated_memory(),
    }


# --- before the first use -----------------------------------------------------------------------------------------


def check_fork_before_first_use():
    assert torch.backends.mps.is_available() and not torch.mps._is_in_bad_fork()
    assert threading.active_count() == 1

    def child():
        assert not torch.mps._is_in_bad_fork()
        assert one_op() == 8
        values = []
        threads = [threading.Thread(target=lambda: values.append(one_op())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert values == [8] * 4 and used_slots() == 0
        torch.mps.synchronize()

        def grandchild():
            assert torch.mps._is_in_bad_fork()
            refused(one_op)

        in_child(grandchild)
        assert one_op() == 8

    for _ in range(2):
        in_child(child)
    # The parent's own device is untouched by its children's.
    assert one_op() == 8 and not torch.mps._is_in_bad_fork()


def test_a_child_forked_before_the_first_use_has_the_device():
    fresh_process(check_fork_before_first_use)


def check_import_opens_nothing():
    import rivulet

    before = set(os.listdir("/proc/self/task"))
    assert torch.backends.mps.is_available() and torch.mps.device_count() == 1
    assert torch.accelerator.current_accelerator().type == "mps"
    rivulet.adapters()
    assert rivulet.doctor()["available"]
    from rivulet import _load

    assert _load.native().report() == {"opened": False}
    assert set(os.listdir("/proc/self/task")) == before


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts threads through /proc")
def test_importing_and_asking_open_no_device_and_start_no_thread():
    fresh_interpreter(check_import_opens_nothing)


# --- after it -----------------------------------------------------------------------------------------------------


def check_fork_after_use():
    x = torch.arange(64.0, device="mps")
    keep = {"weights": [torch.ones(100, device="mps") for _ in range(50)], "event": torch.mps.Event()}
    keep["pinned"] = torch.ones(10).pin_memory()
    event, stream = torch.mps.Event(enable_timing=True), torch.mps.Stream()
    event.record()
    with torch.mps.stream(stream):
        x.add_(1)

    def child():
        assert torch.mps._is_in_bad_fork() is True
        for name, call in touches(x, event, stream).items():
            try:
                refused(call)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None
        assert_cpu_works()
        # Shapes and types of what was inherited can be read; it can be freed.
        assert x.shape == (64,) and x.dtype == torch.float32 and x.device.type == "mps"
        keep.clear()
        gc.collect()
        assert_cpu_works()
        # A thread of the child is no better off, and ends well.
        Background(refused, one_op).result()

        def grandchild():
            assert torch.mps._is_in_bad_fork()
            refused(one_op)

        in_child(grandchild)

    for _ in range(2):
        in_child(child)
        assert x.sum().item() == sum(range(64)) + 64
        assert one_op() == 8 and not torch.mps._is_in_bad_fork()
        assert Background(one_op).result() == 8
    event.record()
    event.synchronize()


def test_a_child_forked_after_use_is_refused_by_name_runs_cpu_ops_frees_and_exits_0():
    fresh_process(check_fork_after_use)


def check_fork_with_busy_threads(count):
    shared = torch.zeros(256, device="mps")
    over = threading.Event()
    done = [0] * 8

    def busy(index):
        local = torch.mps.Event(enable_timing=True)
        while not over.is_set():
            x = torch.randn(32, 32, device="mps")
            shared.add_(1)
            y = torch.linalg.norm(x @ x) + torch.rand(1, device="mps")
            local.record()
            local.synchronize()
            torch.ones(16).pin_memory()
            torch.mps.Event().record()
            del x, y
            done[index] += 1

    threads = [Background(busy, index) for index in range(8)]
    held = [torch.ones(64, device="mps") for _ in range(20)]
    events = [torch.mps.Event() for _ in range(20)]
    pinned = [torch.ones(16).pin_memory() for _ in range(20)]

    def child():
        assert torch.mps._is_in_bad_fork()
        held.clear()
        events.clear()
        pinned.clear()
        gc.collect()
        for name, call in touches(shared, torch.mps.Event, torch.mps.Stream).items():
            if name not in ("Stream.synchronize", "Stream.query", "set_stream") and not name.startswith("Event."):
                refused(call)
        assert_cpu_works()

    for _ in range(count):
        in_child(child)
    progress = list(done)
    deadline = time.monotonic() + 30
    while not all(now > before for now, before in zip(done, progress, strict=True)):
        assert time.monotonic() < deadline, "a thread of the parent stands still after the forks"
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.result()
    assert one_op() == 8


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_forks_beside_8_busy_threads(count):
    fresh_process(check_fork_with_busy_threads, count, timeout=280)


def check_fork_during_ops():
    """The forking thread and another are inside ops: their block locks and turns are taken in the child for ever."""
    x, y = torch.zeros(8, device="mps"), torch.zeros(8, device="mps")
    held = {"x": x, "y": y}
    with Gate(x), Gate(y, write=False):

        def child():
            refused(lambda: held["x"].cpu())
            refused(lambda: held["y"].add_(1))
            held.clear()
            gc.collect()
            assert_cpu_works()

        in_child(child)
    assert x.sum().item() == 8


def check_fork_in_worker():
    """A child of a worker thread: the worker is its main thread."""
    one_op()

    def fork_here():
        assert one_op() == 8
        in_child_of_thread()
        return one_op()

    def in_child_of_thread():
        pid = os.fork()
        if pid == 0:
            try:
                assert torch.mps._is_in_bad_fork()
                refused(one_op)
                assert_cpu_works()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert Background(fork_here).result() == 8
    assert used_slots() == 0


def check_fork_corners():
    check_fork_during_ops()
    check_fork_in_worker()


def test_forks_during_an_op_and_from_a_worker_thread():
    fresh_process(check_fork_corners)


# --- DataLoader ---------------------------------------------------------------------------------------------------


class Numbers(torch.utils.data.Dataset):
    """Items that each worker makes with CPU ops."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.full((4,), float(index)).mul_(2)


class DeviceNumbers(Numbers):
    """Items that each worker makes on the device."""

    def __getitem__(self, index):
        return (torch.full((4,), float(index), device="mps") * 2).cpu()


def load(dataset, **options):
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, **options)
    return [batch.to("mps").sum().item() for _ in range(2) for batch in loader]


EXPECTED = [2.0 * 4 * sum(range(start, start + 4)) for start in range(0, 24, 4)] * 2


def check_loader(use_first):
    if use_first:
        one_op()
    assert load(Numbers()) == EXPECTED
    assert load(Numbers(), persistent_workers=True, pin_memory=True) == EXPECTED
    if use_first:
        # A worker that touches the device gets the error, and the parent hears of it.
        with pytest.raises(RuntimeError, match="forked child"):
            load(DeviceNumbers())
    assert one_op() == 8


@pytest.mark.parametrize("use_first", [False, True], ids=["before the first use", "after it"])
def test_data_loader_workers(use_first):
    fresh_process(check_loader, use_first)


def check_loader_workers_on_the_device():
    loader = torch.utils.data.DataLoader(DeviceNumbers(), batch_size=4, num_workers=2)
    assert [batch.sum().item() for batch in loader] == EXPECTED[:6]
    loader = torch.utils.data.DataLoader(
        DeviceNumbers(), batch_size=12, num_workers=1, multiprocessing_context="spawn"
    )
    one_op()
    assert [batch.sum().item() for batch in loader] == [sum(EXPECTED[:3]), sum(EXPECTED[3:6])]


def test_data_loader_workers_may_use_the_device_where_the_parent_has_not_or_they_are_spawned():
    fresh_process(check_loader_workers_on_the_device)


# --- multiprocessing, servers -------------------------------------------------------------------------------------


def square(values):
    """Runs in another process: Python lists in and out."""
    return (torch.tensor(values, device="mps") ** 2).tolist()


def sum_on_the_cpu(tensor):
    return float(tensor.sum())


def check_start_methods():
    assert one_op() == 8
    for method in ("spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as workers:
            assert workers.map(square, [[1.0, 2.0], [3.0, 4.0]]) == [[1.0, 4.0], [9.0, 16.0]], method
    with multiprocessing.get_context("fork").Pool(1) as workers:
        assert workers.map(sum_on_the_cpu, [torch.ones(3)]) == [3.0]
        with pytest.raises(RuntimeError, match="forked child"):
            workers.map(square, [[1.0]])
    assert one_op() == 8


def test_spawned_processes_have_the_device_and_forked_ones_the_error():
    fresh_process(check_start_methods)


APPLICATION = """
import os, torch
model = torch.nn.Linear(4, 2)
torch.nn.init.ones_(model.weight)
torch.nn.init.zeros_(model.bias)
{preload}
def app(environ, start_response):
    try:
        body = str(model.to("mps")(torch.ones(1, 4, device="mps")).sum().item())
    except RuntimeError as error:
        body = "RuntimeError: " + str(error)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(str(os.getpid()) + " " + body).encode()]
"""


def serve(tmp_path, preload):
    """Answers of a preloading gunicorn with two forked workers."""
    (tmp_path / "application.py").write_text(APPLICATION.format(preload=preload))
    address = f"unix:{tmp_path}/socket"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "2", "--bind", address]
    env = {"PYTHONPATH": str(tmp_path)}
    log = open(tmp_path / "log", "w")
    server = subprocess.Popen([*command, "application:app"], env=clean_environment(env), cwd=tmp_path, stderr=log)

    class Connection(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(60)
            self.sock.connect(f"{tmp_path}/socket")

    try:
        deadline = time.monotonic() + 90
        answers = []
        while len(answers) < 12:
            assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "log").read_text()
            try:
                connection = Connection("localhost")
                connection.request("GET", "/")
                answers.append(connection.getresponse().read().decode().split(" ", 1))
            except OSError:
                time.sleep(0.1)
    finally:
        server.terminate()
        code = server.wait(60)
        log.close()
    assert code == 0, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "was sent SIG" not in text.replace("SIGTERM", ""), text  # no worker crashed
    return answers


def test_a_preloading_server_forks_workers_that_use_the_device(tmp_path):
    pytest.importorskip("gunicorn")
    answers = serve(tmp_path, "")
    assert {body for _, body in answers} == {"8.0"}, answers


def test_a_preloading_server_that_used_the_device_before_the_fork_says_what_to_do(tmp_path):
    pytest.importorskip("gunicorn")
    answers = serve(tmp_path, "model.to('mps')")
    assert all("RuntimeError: Cannot use mps in a forked child process" in body for _, body in answers), answers
    assert all("spawn" in body for _, body in answers)

