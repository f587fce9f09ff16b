"""What a check and a part are, and the parts that there are. Imports no PyTorch."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Failed(Exception):
    """What a check found wrong: one sentence with the op, the values and what was allowed."""


class NotHere(Exception):
    """The check says nothing about this machine; the text says why. Counted apart from those that passed."""


@dataclass
class Context:
    """What a check is given. One for each process; the methods may be called from any thread."""

    quick: bool = False
    seed: int = 0
    deadline: float = float("inf")
    """On the clock of ``time.monotonic``: checks that go in rounds end here."""
    patience: float = 60.0
    """Seconds without :meth:`progress` after which the process is ended; what a check waits for is bounded below it."""
    on_progress: Callable[[], None] = field(default=lambda: None, repr=False)
    facts: dict[str, Any] = field(default_factory=dict)
    """What the running check has to tell beside its outcome; JSON values. Emptied before each check."""

    def left(self) -> float:
        """Seconds until the part's time is over; may be negative."""
        return self.deadline - time.monotonic()

    @property
    def wait(self) -> float:
        """Seconds that a check waits for something that has to come."""
        return self.patience / 2

    def progress(self) -> None:
        """Says that a long check goes on, so that nobody takes it for one that hangs."""
        self.on_progress()

    def rounds(self, quick: int, full: int, seconds: float) -> Rounds:
        """Rounds of a check that repeats itself: `quick` or `full` of them, fewer where they take longer than
        `seconds` or the part's time ends; never none. ``facts["rounds"]`` tells how many were run."""
        return Rounds(self, quick if self.quick else full, seconds)


class Rounds:
    """An iterator over the numbers of rounds, bounded by a count and by time."""

    def __init__(self, context: Context, count: int, seconds: float) -> None:
        self.context, self.count, self.end = context, count, min(time.monotonic() + seconds, context.deadline)
        self.done = 0

    def __iter__(self) -> Rounds:
        return self

    def __next__(self) -> int:
        if self.done > 0 and (self.done >= self.count or time.monotonic() >= self.end):
            self.context.facts["rounds"] = self.done
            raise StopIteration
        self.done += 1
        self.context.progress()
        return self.done - 1


@dataclass(frozen=True)
class Check:
    """One thing that is true of a device that works."""

    name: str
    run: Callable[[Context], None]
    """Returns where it is true; raises :class:`Failed`, :class:`NotHere`, or whatever a broken device raises."""
    group: str = ""
    """The line of the report that it is counted in."""
    vital: bool = False
    """Where it fails, nothing else can be run."""


@dataclass(frozen=True)
class Part:
    """A list of checks that runs in a process of its own."""

    name: str
    title: str
    weight: float
    """Share of the time."""
    module: str = ""
    """Where ``checks(context)`` is that makes the list; the same list for the same seed and size."""

    def home(self) -> str:
        return self.module or f"{__package__}.parts.{self.name}"

    def checks(self, context: Context) -> list[Check]:
        made: list[Check] = importlib.import_module(self.home()).checks(context)
        names = [check.name for check in made]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"checks of part {self.name} share the names {', '.join(twice)}")
        return made


PARTS = (
    Part("machine", "what is here", 1),
    Part("kernels", "ops beside the CPU", 9),
    Part("events", "events and streams", 1.5),
    Part("hazards", "threads that share tensors", 2.5),
    Part("threads", "31 threads, bit for bit as one", 8),
    Part("patterns", "what other backends get wrong with threads", 3),
    Part("memory", "memory levels off", 2),
    Part("plans", "plans and joined calls", 1.5),
    Part("robustness", "errors that leave the device usable", 1.5),
    Part("benchmark", "calls a second beside the CPU", 3),
)
