"""Threads and streams that share memory without a word to each other: the order of the program is the order of the bytes.

Each check makes the device busy on one stream and lets another touch the same memory; a missing wait shows as a wrong
value.
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from ..busy import busy_work
from ..crew import crew
from ..registry import Check, Context, Failed

_SIZE = 1 << 14


def checks(context: Context) -> list[Check]:
    # Threads change places every 50 microseconds, where Python's own 5 ms would let a short body run through.
    sys.setswitchinterval(5e-5)
    torch.set_num_threads(1)
    made = [
        Check("read after write, across streams", _streams(_read_after_write)),
        Check("write after read, across streams", _streams(_write_after_read)),
        Check("write after write, across streams", _streams(_write_after_write)),
        Check("views that overlap, across streams", _streams(_overlapping)),
        Check("read after write, across threads", _read_in_threads),
        Check("write after read, across threads", _write_in_threads),
        Check("no addition in place is lost", _lost_updates),
        Check("no addition into halves of one memory is lost", _halves),
        Check("crossed additions are each whole, and end", _crossed),
        Check("a weight that one thread trains is never seen torn", _torn),
        Check("freed memory is not reused while another thread's work reads it", _freed),
        Check("freed memory is not reused across streams too early", _freed_across_streams),
        Check("a CPU tensor that is filled again after its copy was taken", _source_reused),
        Check("values handed through three threads", _pipeline),
        Check("gradients from eight threads add up", _gradients),
    ]
    return made


def _all(x: torch.Tensor, value: float, text: str) -> None:
    """Every element is this value."""
    back = x.cpu()
    if not bool((back == value).all()):
        wrong = back[back != value]
        raise Failed(f"{text}: {wrong.numel()} of {back.numel()} elements are not {value:g}, such as {wrong[0].item():g}")


Body = Callable[[int, torch.mps.Stream, torch.mps.Stream, Callable[[], Any]], None]


def _streams(body: Body) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        work = busy_work()
        one, two = torch.mps.Stream(), torch.mps.Stream()
        for number in context.rounds(8, 80, 3.0):
            body(number, one, two, work)

    return run


def _read_after_write(number: int, one: torch.mps.Stream, two: torch.mps.Stream, work: Callable[[], Any]) -> None:
    x = torch.zeros(_SIZE, device="mps")
    with torch.mps.stream(one):
        work()
        x.fill_(number + 1)
    with torch.mps.stream(two):
        y = x + 1
    _all(y, number + 2, f"round {number}, read before the write")


def _write_after_read(number: int, one: torch.mps.Stream, two: torch.mps.Stream, work: Callable[[], Any]) -> None:
    x = torch.full((_SIZE,), float(number), device="mps")
    with torch.mps.stream(one):
        work()
        y = x + 1
    with torch.mps.stream(two):
        x.fill_(-5)
    _all(y, number + 1, f"round {number}, overwritten before it was read")
    _all(x, -5, f"round {number}, the write")


def _write_after_write(number: int, one: torch.mps.Stream, two: torch.mps.Stream, work: Callable[[], Any]) -> None:
    x = torch.zeros(_SIZE, device="mps")
    with torch.mps.stream(one):
        work()
        x.fill_(1)
    with torch.mps.stream(two):
        x.fill_(2)
    with torch.mps.stream(one):
        work()
        x.mul_(3)
    with torch.mps.stream(two):
        x.add_(number)
    _all(x, 6 + number, f"round {number}, four writes in order")


def _overlapping(number: int, one: torch.mps.Stream, two: torch.mps.Stream, work: Callable[[], Any]) -> None:
    base = torch.zeros(_SIZE, device="mps")
    left, right = base[: _SIZE // 2 + 100], base[_SIZE // 2 - 100 :]
    with torch.mps.stream(one):
        work()
        left.fill_(1)
    with torch.mps.stream(two):
        right.mul_(2).add_(number)
    back = base.cpu()
    middle = _SIZE // 2 - 100
    _all(back[:middle], 1, f"round {number}, the left view alone")
    _all(back[middle : middle + 200], 2 + number, f"round {number}, where the views overlap")
    _all(back[middle + 200 :], number, f"round {number}, the right view alone")


def _handed(context: Context, first: Callable[[int], torch.Tensor], then: Callable[[int, torch.Tensor], None]) -> None:
    """`first` on one thread, `then` on another with what that gave, as soon as Python has it."""
    inbox: queue.Queue[torch.Tensor | None] = queue.Queue()

    def give() -> None:
        try:
            for number in context.rounds(8, 80, 4.0):
                inbox.put(first(number))
        finally:
            inbox.put(None)

    def take() -> None:
        number = 0
        while (x := inbox.get(timeout=context.wait)) is not None:
            then(number, x)
            number += 1

    crew(2, lambda index: take() if index else give())


def _read_in_threads(context: Context) -> None:
    work = busy_work()

    def write(number: int) -> torch.Tensor:
        x = torch.zeros(_SIZE, device="mps")
        work()
        return x.fill_(number + 1)

    _handed(context, write, lambda number, x: _all(x * 2, 2 * number + 2, f"round {number}, read before the write"))


def _write_in_threads(context: Context) -> None:
    work = busy_work()
    sources: list[torch.Tensor] = []

    def read(number: int) -> torch.Tensor:
        x = torch.full((_SIZE,), float(number), device="mps")
        sources.append(x)
        work()
        return x + 1

    def overwrite(number: int, y: torch.Tensor) -> None:
        sources[number].fill_(-9)
        _all(y, number + 1, f"round {number}, overwritten before it was read")

    _handed(context, read, overwrite)


def _lost_updates(context: Context) -> None:
    weight = torch.zeros(1000, device="mps")
    rounds = 25 if context.quick else 300

    def add(index: int) -> None:
        for _ in range(rounds):
            weight.add_(1)
            context.progress()

    crew(8, add)
    _all(weight, 8 * rounds, f"8 threads added 1 {rounds} times each")


def _halves(context: Context) -> None:
    base = torch.zeros(2000, device="mps")
    rounds = 25 if context.quick else 200

    def add(index: int) -> None:
        part = (base[:1000], base[1000:], base[500:1500], base)[index % 4]
        for _ in range(rounds):
            part.add_(1)
            context.progress()

    crew(8, add)
    back = base.cpu()
    _all(back[:500], 4 * rounds, "additions by a half and by the whole")
    _all(back[500:1500], 6 * rounds, "additions by a half, the middle and the whole")


def _crossed(context: Context) -> None:
    for number in context.rounds(20, 200, 4.0):
        x, y = torch.full((4096,), 1.0, device="mps"), torch.full((4096,), 2.0, device="mps")
        crew(2, lambda index, x=x, y=y: y.add_(x) if index else x.add_(y))  # type: ignore[misc]
        found = (x.cpu().unique().tolist(), y.cpu().unique().tolist())
        if found not in (([4.0], [3.0]), ([3.0], [5.0])):
            raise Failed(f"round {number}: x.add_(y) beside y.add_(x) of 1 and 2 gave {found[0][:4]} and {found[1][:4]}")


def _torn(context: Context) -> None:
    weights = [torch.zeros(5000, device="mps") for _ in range(3)]
    over = threading.Event()
    rounds = 30 if context.quick else 200

    def body(index: int) -> None:
        if index == 0:
            try:
                for _ in range(rounds):
                    for weight in weights:
                        weight.add_(1)
                    context.progress()
            finally:
                over.set()
            return
        while True:
            last = over.is_set()
            for weight in weights:
                copy = weight.cpu() if index % 2 else (weight + 0).cpu()
                if not bool((copy == copy[0]).all()):
                    raise Failed(f"half of an update: {copy.unique().tolist()[:4]} in one weight")
            if last:
                return

    crew(5, body)
    for weight in weights:
        _all(weight, rounds, f"a weight after {rounds} additions")


def _freed(context: Context) -> None:
    inbox: queue.Queue[torch.Tensor | None] = queue.Queue(maxsize=2)

    def make() -> None:
        try:
            for number in context.rounds(40, 400, 5.0):
                x = torch.full((2048,), float(number), device="mps")
                inbox.put(x, timeout=context.wait)
                del x
                # May get the memory that has just been freed.
                torch.full((2048,), -1.0, device="mps")
        finally:
            inbox.put(None, timeout=context.wait)

    def use() -> None:
        number, found = 0, None
        # To the end, also where something is wrong: the maker waits for a place.
        while (x := inbox.get(timeout=context.wait)) is not None:
            total = x * 2
            del x
            try:
                _all(total, 2 * number, f"round {number}, memory given to others while it was read")
            except Failed as wrong:
                found = found or wrong
            number += 1
        if found:
            raise found

    crew(2, lambda index: use() if index else make())


def _freed_across_streams(context: Context) -> None:
    work = busy_work()
    one, two = torch.mps.Stream(), torch.mps.Stream()
    for number in context.rounds(8, 80, 4.0):
        x = torch.full((_SIZE,), float(number), device="mps")
        with torch.mps.stream(two):
            work()
            y = x + 1
        del x
        gc.collect(0)
        with torch.mps.stream(one):
            others = [torch.full((_SIZE,), -7.0, device="mps") for _ in range(8)]
        _all(y, number + 1, f"round {number}, memory given to another stream before it was read")
        for other in others:
            _all(other, -7, f"round {number}, memory of two owners")


def _source_reused(context: Context) -> None:
    source = torch.empty(4096)
    for number in context.rounds(30, 300, 3.0):
        source.fill_(number)
        copy = source.to("mps", non_blocking=True)
        source.fill_(-1)
        back = torch.empty(4096)
        back.copy_(copy, non_blocking=True)
        torch.mps.synchronize()
        _all(back, number, f"round {number}, the copy that came back")
        _all(copy + 0, number, f"round {number}, the copy on the device")


def _pipeline(context: Context) -> None:
    rounds = 20 if context.quick else 200
    stages: list[queue.Queue[torch.Tensor]] = [queue.Queue(maxsize=4) for _ in range(4)]

    def body(index: int) -> None:
        for number in range(rounds):
            context.progress()
            if index == 0:
                stages[0].put(torch.full((333,), float(number % 50), device="mps"), timeout=context.wait)
            elif index < 4:
                x = stages[index - 1].get(timeout=context.wait)
                stages[index].put(x.mul_(3).add_(index) if index % 2 else x * 3 + index, timeout=context.wait)
            else:
                value = float(number % 50)
                for stage in range(1, 4):
                    value = value * 3 + stage
                _all(stages[3].get(timeout=context.wait), value, f"value {number} after three threads")

    crew(5, body)


def _gradients(context: Context) -> None:
    model = torch.nn.Linear(8, 3, bias=False).to("mps")
    torch.nn.init.ones_(model.weight)
    rounds = 5 if context.quick else 40
    # PyTorch asks for a buffer that exists before several threads accumulate into it.
    model.weight.grad = torch.zeros_like(model.weight)

    def body(index: int) -> None:
        x = torch.full((2, 8), float(index), device="mps")
        for _ in range(rounds):
            model(x).sum().backward()
            context.progress()

    crew(8, body)
    _all(model.weight.grad, rounds * 2 * sum(range(8)), "gradients of eight threads")
