"""Runs the parts in child processes, watches them, and keeps what became of each check.

A child that dies or says nothing for too long has failed the check that it was in; another one goes on behind that check.
Imports no PyTorch: whatever that does to a process is done to a child.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .registry import Part

#: Children that may die in one part before the rest of it is left out.
LIVES = 6
#: Seconds that a child has to import PyTorch and open the device, beside its patience.
START = 120.0
#: And to end, which is PyTorch's own time too.
END = 60.0
_TAIL = 3000


@dataclass
class Result:
    """What became of one check."""

    name: str
    group: str = ""
    vital: bool = False
    outcome: str = "left out"
    """"passed", "failed", "not here" (says nothing about this machine) or "left out"."""
    message: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    """The end of what the child printed, where it died or hung."""


@dataclass
class PartResult:
    """What became of one part."""

    part: Part
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0
    broken: str = ""
    """Why the part could not be run, or not to its end."""
    output: str = ""
    kernels: list[dict[str, Any]] = field(default_factory=list)
    """One for each child that came to its end: see ``rivulet_kernels_json``."""

    def count(self, outcome: str) -> int:
        return sum(result.outcome == outcome for result in self.results)

    def vital_failure(self) -> bool:
        """A check failed without which nothing else can be run."""
        return any(result.vital and result.outcome == "failed" for result in self.results)

    @property
    def state(self) -> str:
        """ "failed", "could not run", "incomplete" (nothing failed, something was left out) or "passed"."""
        if self.vital_failure():
            return "could not run"
        if self.count("failed"):
            return "failed"
        if self.broken and not self.count("passed"):
            return "could not run"
        if self.broken or self.count("left out") or not self.results:
            return "incomplete"
        return "passed"


@dataclass
class Options:
    """What one run is to be like."""

    minutes: float = 5.0
    quick: bool = False
    seed: int = 0
    patience: float = 60.0
    """Seconds without a word from a check after which it counts as one that hangs."""
    adapter: str | None = None


Progress = Callable[[str], None]


def run(parts: Sequence[Part], options: Options, tell: Progress) -> Iterator[PartResult]:
    """Runs the parts in order; what one leaves of its time goes to those after it. Ctrl-C ends the running child, hands
    out what it has found, and is raised again when the next part is asked for."""
    end = time.monotonic() + options.minutes * 60
    for number, part in enumerate(parts):
        weights = sum(other.weight for other in parts[number:])
        share = max(0.0, end - time.monotonic()) * part.weight / weights
        if part.name == "machine":
            # Nothing goes on without its facts, and a busy machine may take long to import PyTorch.
            share = max(share, START)
        found = PartResult(part)
        begun = time.monotonic()
        interrupt = None
        try:
            _run_part(found, share, options, tell)
        except KeyboardInterrupt as interrupted:
            found.broken, interrupt = "interrupted", interrupted
        found.seconds = round(time.monotonic() - begun, 1)
        yield found
        if interrupt is not None:
            raise interrupt
        if found.vital_failure() or (part.name == "machine" and not found.count("passed")):
            return


def _run_part(found: PartResult, seconds: float, options: Options, tell: Progress) -> None:
    deadline = time.monotonic() + seconds
    first = 0
    for _ in range(LIVES):
        child = _Child(found, first, deadline - time.monotonic(), options, tell)
        stopped = child.watch()
        if stopped is None:
            return
        if child.index is None:
            # Before the first check of its own: another child would come no further.
            found.broken, found.output = stopped, child.output()
            return
        result = found.results[child.index]
        if result.outcome != "left out":
            # It had come through that check.
            result = Result("the end of the process")
            found.results.append(result)
        result.outcome, result.message, result.output = "failed", stopped, child.output()
        result.seconds = round(time.monotonic() - child.begun, 3)
        first = child.index + 1
        if first >= len(found.results) or found.results[first].outcome != "left out":
            return
        if time.monotonic() >= deadline:
            for later in found.results[first:]:
                later.message = later.message or "the time was over"
            return
    found.broken = f"{LIVES} processes died in it; the rest was left out"


class _Child:
    def __init__(self, found: PartResult, first: int, seconds: float, options: Options, tell: Progress) -> None:
        self.found, self.options, self.tell = found, options, tell
        self.index: int | None = None
        self.begun = time.monotonic()
        self._files = tempfile.TemporaryFile()
        reader, writer = os.pipe()
        asked = {
            "part": found.part.name,
            "module": found.part.home(),
            "first": first,
            "quick": options.quick,
            "seed": options.seed,
            "seconds": max(0.0, seconds),
            "patience": options.patience,
            "descriptor": writer,
        }
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        # Beside CUDA only one of the two has autograd, and it is mps that is tested.
        environment.setdefault("RIVULET_ACCELERATOR", "mps")
        if options.adapter is not None:
            environment["RIVULET_ADAPTER"] = options.adapter
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", f"{__package__}.child", json.dumps(asked)],
                stdin=subprocess.DEVNULL,
                stdout=self._files,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                env=environment,
                # A group of its own: Ctrl-C reaches the parent alone, which then ends the child with all of its own.
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._pipe = reader

    def watch(self) -> str | None:
        """Follows the child to its end: None where it came to it by itself, otherwise what became of it."""
        try:
            return self._follow()
        finally:
            self._end()
            os.close(self._pipe)

    def _follow(self) -> str | None:
        rest, silent_since, finished = b"", time.monotonic(), False
        patience = self.options.patience + START
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while True:
                wait = silent_since + patience - time.monotonic()
                if wait <= 0:
                    if finished:
                        return "the process did not end after its last check"
                    return f"hangs: nothing was heard of it for {patience:.0f} s"
                if not selector.select(min(wait, 1.0)):
                    continue
                data = os.read(self._pipe, 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    finished = self._take(json.loads(line)) or finished
                silent_since, patience = time.monotonic(), self.options.patience + (END if finished else 0.0)
        try:
            status = self.process.wait(self.options.patience + END)
        except subprocess.TimeoutExpired:
            return "the process closed its pipe and did not end"
        if status == 0 and finished:
            return None
        if status < 0:
            return f"the process died of {_signal_name(-status)}"
        return f"the process ended with status {status}"

    def _take(self, message: dict[str, Any]) -> bool:
        event, found = message["event"], self.found
        if event == "plan" and not found.results:
            found.results = [Result(*described) for described in message["checks"]]
        elif event == "begin":
            self.index, self.begun = message["index"], time.monotonic()
            self.tell(f"{found.part.name}: {found.results[self.index].name}")
        elif event == "end":
            result = found.results[message["index"]]
            result.outcome, result.message = message["outcome"], message["message"]
            result.seconds, result.facts = message["seconds"], message["facts"]
        elif event == "over":
            for result in found.results[message["index"] :]:
                result.message = "the time was over"
        elif event == "done":
            found.kernels.append(message["kernels"])
            return True
        return False

    def _end(self) -> None:
        if self.process.poll() is None:
            # faulthandler answers with the Python stacks of all threads.
            self._signal(signal.SIGABRT)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                pass
        # Its own children too, also where it has ended itself.
        self._signal(signal.SIGKILL)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            # Inside a driver that does not let it go; the rest of the test does not wait for that.
            pass

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS answers with the latter for a group of which only zombies are left.
            pass

    def output(self) -> str:
        """The end of what it printed."""
        size = self._files.seek(0, os.SEEK_END)
        self._files.seek(max(0, size - _TAIL))
        return self._files.read().decode("utf-8", "replace").strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
