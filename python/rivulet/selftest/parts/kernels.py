"""Ops beside the CPU: the project's own tables, then every op in every type over shapes and layouts."""

from __future__ import annotations

from collections.abc import Callable

import rivulet
import torch

from ..cases import TABLES, collect
from ..cases.sweeps import sweeps
from ..registry import Check, Context


def checks(context: Context) -> list[Check]:
    # The CPU's own threads change the order of its sums, and compete with those of a device in software.
    torch.set_num_threads(1)
    made = []
    for table in TABLES:
        for case in collect(table, context.seed):
            group = f"{table.replace('_', ' ')} {case.dtype}".strip()
            made.append(Check(f"{table}: {case.name}", counted(case.judge), group))
    if not context.quick:
        for family, case in sweeps(context.seed):
            made.append(Check(f"{family}, forms: {case.name}", counted(case.judge), f"{family}, forms {case.dtype}"))
    return made


def counted(judge: Callable[[], None]) -> Callable[[Context], None]:
    """With the ops that ran on the CPU path of a GPU; none are counted on the host adapter, whose normal path that is."""

    def run(context: Context) -> None:
        rivulet.reset_fallback_counts()
        try:
            judge()
        finally:
            if fallbacks := rivulet.fallback_counts():
                context.facts["fallbacks"] = fallbacks

    return run
