"""Errors have names and leave the device usable: for the thread that made them, for the others, and for new ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from ..crew import THREADS, apart, crew
from ..registry import Check, Context, Failed, NotHere

TERABYTE = 10**12

_CALLS: dict[str, tuple[Callable[[], Any], tuple[type[Exception], ...], str]] = {
    "shapes that do not fit": (
        lambda: torch.ones(3, 4, device="mps") + torch.ones(5, device="mps"), (RuntimeError,), "size of tensor",
    ),
    "matrices that do not fit": (
        lambda: torch.ones(3, 4, device="mps") @ torch.ones(5, 6, device="mps"), (RuntimeError,), "cannot be multiplied",
    ),
    "a view of another size": (lambda: torch.ones(6, device="mps").view(4, 2), (RuntimeError,), "invalid for input of size"),
    "an index beyond the end": (lambda: torch.ones(3, device="mps")[5], (IndexError,), "out of bounds"),
    "a dimension that is not there": (lambda: torch.ones(3, device="mps").sum(4), (IndexError,), "out of range"),
    "two devices": (lambda: torch.ones(3, device="mps") + torch.ones(3), (RuntimeError,), "mps"),
    "a factor of no inverse": (lambda: torch.linalg.inv(torch.zeros(3, 3, device="mps")), (RuntimeError,), "singular"),
    "a stream that was never made": (
        lambda: torch.mps.current_stream() and torch.mps.set_stream(torch.mps.Stream(stream_id=4_000_000)),
        (RuntimeError, ValueError), "stream id",
    ),
    "90 TiB": (lambda: torch.empty(100 * TERABYTE, dtype=torch.uint8, device="mps"), (torch.OutOfMemoryError,), "memory"),
    "90 TiB as a result": (
        lambda: torch.ones(1, device="mps").expand(25 * TERABYTE) + 1, (torch.OutOfMemoryError,), "memory",
    ),
}  # fmt: skip


def checks(context: Context) -> list[Check]:
    torch.set_num_threads(1)
    made = [Check(f"{name}: an error that says so", _refused(*case)) for name, case in _CALLS.items()]
    return made + [
        Check("an error in backward reaches its caller", _backward),
        Check("errors in some threads leave the others alone", _beside),
        Check("a thread that ends with an error in the middle of its work", _dies),
        Check("one thread more than there are streams", _exhausted),
        Check("Ctrl-C ends a wait", _interrupt),
        Check("a process that ends in the middle of its work", _exit),
        Check("a process forked after the first use is told so", _fork),
    ]


def usable() -> None:
    """The device works, for this thread and a new one."""

    def works() -> list[float]:
        x = torch.arange(6.0, device="mps")
        values: list[float] = (x * 2 + 1).tolist()
        return values

    for values in (works(), apart(works)):
        if values != [1, 3, 5, 7, 9, 11]:
            raise Failed(f"the device counts wrongly afterwards: {values}")


def _refused(call: Callable[[], Any], kinds: tuple[type[Exception], ...], text: str) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        before = torch.mps.current_allocated_memory()
        for body in (call, lambda: apart(call)):
            try:
                body()
                torch.mps.synchronize()
            except kinds as error:
                if text not in str(error).lower():
                    raise Failed(f"{type(error).__name__} does not say {text!r}: {str(error)[:300]}") from None
            else:
                raise Failed("no error was raised")
        usable()
        if torch.mps.current_allocated_memory() != before:
            raise Failed(f"{torch.mps.current_allocated_memory() - before} bytes stay allocated behind the error")

    return run


def _backward(context: Context) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            raise ValueError("no gradient today")

    x = torch.ones(3, device="mps", requires_grad=True)
    try:
        Fails.apply(x).sum().backward()
    except ValueError as error:
        if "no gradient today" not in str(error):
            raise Failed(f"another error arrived: {error}") from None
    else:
        raise Failed("the error of a backward was lost")
    (x * 3).sum().backward()
    if x.grad is None or x.grad.tolist() != [3, 3, 3]:
        raise Failed(f"the next backward gave {x.grad}")
    usable()


def _beside(context: Context) -> None:
    rounds = 10 if context.quick else 100

    def body(index: int) -> None:
        for number in range(rounds):
            context.progress()
            if index < 3:
                try:
                    torch.ones(2 + index, device="mps") + torch.ones(9, device="mps")
                except RuntimeError as error:
                    if f"({2 + index})" not in str(error):
                        raise Failed(f"thread {index} got the error of another: {str(error)[:200]}") from None
                else:
                    raise Failed("shapes that do not fit were added")
            else:
                total = torch.full((100,), float(index), device="mps").add_(number).sum().item()
                if total != 100 * (index + number):
                    raise Failed(f"thread {index}: {total} instead of {100 * (index + number)}")

    crew(9, body)
    usable()


def _dies(context: Context) -> None:
    shared = torch.zeros(4096, device="mps")

    def body(index: int) -> None:
        shared.add_(1)
        if index % 2:
            raise KeyError(index)

    for _ in range(3):
        try:
            crew(8, body)
        except KeyError:
            pass
    if shared.cpu().unique().tolist() != [24]:
        raise Failed(f"24 additions of threads, some of which died, gave {shared.cpu().unique().tolist()[:4]}")
    usable()


def _exhausted(context: Context) -> None:
    import rivulet

    size = rivulet.doctor()["runtime"]["pool"]["size"]
    settings = ("MPS_POOL_BACKPRESSURE", "MPS_POOL_TIMEOUT_MS", "MPS_STREAM_POOL_WAIT_TIMEOUT_MS", "MPS_POOL_SHARE")
    if any(os.environ.get(name) for name in settings):
        raise NotHere("a setting lets threads beyond the streams wait or share")
    together, over = threading.Barrier(size), threading.Event()

    def body(index: int) -> str:
        if index < size - 1:
            torch.ones(4, device="mps").sum().item()
            together.wait(context.wait)
            over.wait(context.wait)
            return ""
        try:
            together.wait(context.wait)
            torch.ones(4, device="mps")
        except RuntimeError as error:
            return str(error)
        finally:
            over.set()
        return ""

    text = crew(size, body)[-1]
    if "exhausted" not in text or str(size) not in text:
        raise Failed(f"thread {size} of {size - 1} got no error that names the pool and its size: {text!r}")
    usable()
    sums = crew(THREADS, lambda index: torch.ones(4, device="mps").sum().item())
    if sums != [4.0] * THREADS:
        raise Failed(f"after the pool was exhausted: {sums}")


def _child(context: Context, code: str) -> tuple[int, str]:
    context.progress()
    prelude = "import torch\nfrom rivulet import _load\n_load.ensure()\n"
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", prelude + code],
            capture_output=True, text=True, timeout=0.9 * context.patience, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"a process did not end within {0.9 * context.patience:.0f} s") from None
    return done.returncode, (done.stdout + done.stderr).strip()


def _interrupt(context: Context) -> None:
    status, text = _child(context, """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
x = torch.ones(256, 256, device="mps")
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
begun = time.monotonic()
try:
    while time.monotonic() - begun < 30:
        x = (x @ x).clamp(0, 1)
        torch.mps.synchronize()
    print("no interrupt")
except KeyboardInterrupt:
    print("interrupted" if torch.ones(3, device="mps").sum().item() == 3 else "wrong afterwards")
""")
    if status != 0 or not text.endswith("interrupted"):
        raise Failed(f"status {status}: {text[-300:]}")


def _exit(context: Context) -> None:
    status, text = _child(context, """
import threading
x = torch.ones(256, 256, device="mps")
def work():
    y = x
    while True:
        y = (y @ x).clamp(0, 1)
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
for _ in range(20):
    x = (x @ x).clamp(0, 1)
print("ends")
""")
    if status != 0 or not text.endswith("ends"):
        raise Failed(f"status {status}: {text[-300:]}")


def _fork(context: Context) -> None:
    if sys.platform == "darwin":
        raise NotHere("Apple's libraries do not take a fork without exec; use the 'spawn' method")
    status, text = _child(context, """
import os
torch.ones(4, device="mps").sum().item()
child = os.fork()
if child == 0:
    try:
        torch.ones(4, device="mps")
        os._exit(3)
    except RuntimeError as error:
        os._exit(0 if "fork" in str(error) else 4)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(torch.ones(4, device="mps").sum().item()))
""")
    # Python 3.12 warns of forks beside threads, after that.
    if status != 0 or "child 0 4" not in text.splitlines():
        raise Failed(f"status {status}: {text[-300:]} (child 3: no error, 4: one that does not name the fork)")


