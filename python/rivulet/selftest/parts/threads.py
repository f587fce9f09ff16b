"""31 threads that share models and inputs get, round after round, the bits of one."""

from __future__ import annotations

import time
from collections.abc import Callable

import rivulet
import torch

from ..compare import same_bits
from ..crew import THREADS, apart, crew
from ..registry import Check, Context, Failed
from ..workloads import NAMES, workloads

#: A check that takes longer than this many seconds alone would take minutes on 31 threads of a software device.
_SLOW = 0.25


def checks(context: Context) -> list[Check]:
    torch.set_num_threads(1)
    dtypes = (torch.float32,) if context.quick else (torch.float32, torch.float16)
    kinds = [(name, dtype) for dtype in dtypes for name in NAMES]
    made = []
    for number, (name, dtype) in enumerate(kinds):
        text = str(dtype)[6:]
        # The time is shared out evenly over what is left, so that a slow device does few rounds of all.
        made.append(Check(f"{name}, {text}", _checked(name, dtype, len(kinds) + 1 - number), text))
    made.append(Check("another workload on each thread", _in_turns, "float32"))
    return made


def _once(work: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [result.cpu() for result in work()]


def _reference(work: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
    alone: list[torch.Tensor] = apart(lambda: _once(work))
    if not all(result.isfinite().all() for result in alone):
        raise Failed("one thread alone gets infinities or NaN")
    return alone


def _checked(name: str, dtype: torch.dtype, left: int) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        rivulet.reset_fallback_counts()
        work = workloads(dtype, context.quick)[name]
        alone = _reference(work)
        begun = time.monotonic()
        _once(work)
        if time.monotonic() - begun > _SLOW and not context.quick:
            context.facts["size"] = "small"
            work = workloads(dtype, True)[name]
            alone = _reference(work)
        context.facts["compared"] = 0
        for _ in context.rounds(2, 30, min(10.0, 0.8 * context.left() / left)):
            context.facts["compared"] += _round(context, work, alone)
        if fallbacks := rivulet.fallback_counts():
            context.facts["fallbacks"] = fallbacks

    return run


def _round(context: Context, work: Callable[[], list[torch.Tensor]], alone: list[torch.Tensor]) -> int:
    def body(index: int) -> None:
        got = _once(work)
        context.progress()
        for place, (one, other) in enumerate(zip(got, alone)):
            if not same_bits(one, other):
                off = (one.double() - other.double()).abs().max().item()
                raise Failed(
                    f"thread {index} of {THREADS} got other bits than one thread alone: result {place}, "
                    f"{int((one != other).sum())} of {one.numel()} elements, by up to {off:.3g}"
                )

    crew(THREADS, body)
    return THREADS


def _in_turns(context: Context) -> None:
    """Every thread another workload at the same moment."""
    table = workloads(torch.float32, True)
    alone = {name: _reference(table[name]) for name in NAMES}
    compared = 0
    for number in context.rounds(1, 10, 10.0):

        def body(index: int, number: int = number) -> int:
            for step in range(2 if context.quick else len(NAMES)):
                name = NAMES[(index + number + step) % len(NAMES)]
                got = _once(table[name])
                context.progress()
                if not all(map(same_bits, got, alone[name])):
                    raise Failed(f"thread {index} of {THREADS} got other bits of {name} than one thread alone")
            return step + 1

        compared += sum(crew(THREADS, body))
    context.facts["compared"] = compared
