"""What a plan runs, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._plan_tape import Affine, Op, Shared, Tape


def _bytes(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"


def _shared_bytes(shared: Iterable[Shared]) -> int:
    storages = {one.tensor.untyped_storage()._cdata: one.tensor.untyped_storage().nbytes() for one in shared}
    return sum(storages.values())


def _formulas(op: Op) -> str:
    parts = [
        f"{item.base} + {item.slope}·batch" if item.base else f"{item.slope}·batch"
        for argument in op.arguments
        for item in (argument if isinstance(argument, list) else [argument])
        if isinstance(item, Affine)
    ]
    return f"  [{', '.join(parts)}]" if parts else ""


@dataclass(frozen=True)
class Shape:
    """One tape of a plan, as it is now."""

    tape: Tape
    sizes: Sequence[Any]
    path: str
    frames: int
    programs: Sequence[dict[str, Any]]
    #: Nanoseconds of a usual run of CPU kernels on one thread and on several; empty where they were not measured.
    times: Sequence[int]


def _program(report: dict[str, Any]) -> list[str]:
    """Numbers of a report by name, how many there are of what it lists, and the fusions."""
    parts = []
    for name, value in report.items():
        if isinstance(value, list):
            parts.append(f"{len(value)} {name}")
        elif "bytes" in name and isinstance(value, int):
            parts.append(f"{name.removesuffix('_bytes').replace('_', ' ')} {_bytes(value)}")
        else:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return [f"  program: {', '.join(parts)}", *(f"    {line}" for line in report.get("fusions", []))]


def _shape(number: int, shape: Shape) -> list[str]:
    tape = shape.tape
    named = sum(bool(shared.name) for shared in tape.shared.values())
    constants = sum(shared.constant for shared in tape.shared.values())
    closed = len(tape.shared) - named - constants
    lines = [
        f"shape {number}: inputs {', '.join(map(str, shape.sizes)) or 'none'}",
        f"  runs as: {shape.path}; {shape.frames} frames made for calls at once",
        f"  shared: {named} tensors of the module, {closed} others and views, {constants} constants, "
        f"{_bytes(_shared_bytes(tape.shared.values()))}",
    ]
    if shape.times:
        one, several = (nanoseconds / 1e3 for nanoseconds in shape.times)
        lines.append(f"  on one thread {one:.0f} us, on several {several:.0f} us")
    written = [shared.name or "a tensor without a name" for shared in tape.shared.values() if shared.written]
    if written:
        lines.append(f"  changes in place: {', '.join(written)}")
    if any(op.random for op in tape.ops):
        lines.append("  random: draws new numbers at each call")
    for report in shape.programs:
        lines += _program(report)
    counts = Counter(op.full_name for op in tape.ops)
    lines.append(f"  {len(tape.ops)} ops: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")
    width = max((len(op.full_name) for op in tape.ops), default=0)
    lines += [f"    {op.full_name:<{width}}  {op.place}{_formulas(op)}" for op in tape.ops]
    return lines


def explain(name: str, shapes: Sequence[Shape]) -> str:
    """Text for people; its form may change."""
    lines = [f"plan of {name}, torch {torch.__version__}"]
    for number, shape in enumerate(shapes):
        lines += _shape(number, shape)
    return "\n".join(lines)
