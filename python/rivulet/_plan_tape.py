"""The tape of a plan as data: what was noted, what may follow the batch, and the bytes that csrc/plan reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

FORMAT = 1
NO_SLOT = 0xFFFFFFFF

#: Inputs of a capture with a free batch are taken at these sizes; the first two give the formula, the others check it.
BATCHES = (2, 3, 5)


class PlanError(RuntimeError):
    """A function cannot become a plan; the text names the op and the line of the user's code."""


@dataclass(frozen=True)
class Value:
    """A tensor of the tape by its number."""

    number: int


@dataclass(frozen=True)
class Affine:
    """An integer that follows the size of the batch: base + slope · batch."""

    base: int
    slope: int


@dataclass(frozen=True)
class Place:
    """A line of the user's code."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.text else f"{self.file}:{self.line}"


@dataclass
class Op:
    """One call of an ATen op. Arguments are complete and in the schema's order; results hold numbers of values, None
    for what is not kept, or a list of those."""

    name: str
    overload: str
    arguments: list[Any]
    results: list[Any]
    place: Place
    random: bool = False
    pure: bool = True
    """Nothing but its results comes of it, and those depend on its arguments alone."""

    @property
    def full_name(self) -> str:
        return f"{self.name}.{self.overload}" if self.overload else self.name

    def values(self) -> Iterator[int]:
        """Numbers of the tensors it reads."""
        for argument in self.arguments:
            if isinstance(argument, Value):
                yield argument.number
            elif isinstance(argument, list):
                yield from (item.number for item in argument if isinstance(item, Value))

    def made(self) -> Iterator[int]:
        """Numbers of the tensors it makes."""
        for result in self.results:
            for number in result if isinstance(result, list) else [result]:
                if number is not None:
                    yield number

    def follows_batch(self) -> bool:
        return any(
            isinstance(item, Affine)
            for argument in self.arguments
            for item in (argument if isinstance(argument, list) else [argument])
        )


@dataclass
class Shared:
    """A tensor that the tape found: a parameter, a buffer, one that the function closes over, or a constant."""

    tensor: torch.Tensor
    constant: bool
    """Made by the forward itself, from nothing that may change."""
    written: bool = False
    name: str = ""


@dataclass
class Tape:
    """One forward. Values are numbered as they were met; `shared` and `inputs` say which of them are which."""

    inputs: list[int]
    shared: dict[int, Shared]
    ops: list[Op]
    outputs: list[int]
    output_on_device: list[bool]
    batched: list[bool] = field(default_factory=list)
    written_inputs: list[bool] = field(default_factory=list)

    def renumbered(self) -> Tape:
        """The same with values numbered as csrc/plan wants them: inputs, shared tensors, results."""
        numbers: dict[int, int] = {}
        for number in [*self.inputs, *self.shared, *(made for op in self.ops for made in op.made())]:
            numbers.setdefault(number, len(numbers))

        def renumber(item: Any) -> Any:
            if isinstance(item, Value):
                return Value(numbers[item.number])
            return [renumber(part) for part in item] if isinstance(item, list) else item

        def renumber_result(item: Any) -> Any:
            if isinstance(item, list):
                return [renumber_result(part) for part in item]
            return None if item is None else numbers[item]

        ops = [
            Op(
                op.name,
                op.overload,
                renumber(op.arguments),
                renumber_result(op.results),
                op.place,
                op.random,
                op.pure,
            )
            for op in self.ops
        ]
        return Tape(
            [numbers[number] for number in self.inputs],
            {numbers[number]: shared for number, shared in self.shared.items()},
            ops,
            [numbers[number] for number in self.outputs],
            self.output_on_device,
            self.batched,
            self.written_inputs,
        )

    def to_bytes(self) -> bytes:
        """For csrc/plan/reader.cpp. The tape is renumbered."""
        count = len(self.inputs) + len(self.shared) + sum(1 for op in self.ops for _ in op.made())
        out = bytearray(struct.pack("<II", FORMAT, len(self.inputs)))
        for batched, written in zip(self.batched, self.written_inputs, strict=True):
            out += struct.pack("<B", batched | written << 1)
        out += struct.pack("<I", len(self.shared))
        for shared in self.shared.values():
            out += struct.pack("<B", shared.written << 1)
        out += struct.pack("<II", count, len(self.ops))
        for op in self.ops:
            _write_text(out, op.name)
            _write_text(out, op.overload)
            out += struct.pack("<I", len(op.arguments))
            for argument in op.arguments:
                _write(out, argument, op)
            out += struct.pack("<I", len(op.results))
            for result in op.results:
                if isinstance(result, list):
                    out += struct.pack("<BI", 1, len(result))
                    for number in result:
                        out += struct.pack("<I", NO_SLOT if number is None else number)
                else:
                    out += struct.pack("<BI", 0, NO_SLOT if result is None else result)
        out += struct.pack("<I", len(self.outputs))
        for number, on_device in zip(self.outputs, self.output_on_device, strict=True):
            out += struct.pack("<IB", number, on_device)
        return bytes(out)


def _write_text(out: bytearray, text: str) -> None:
    data = text.encode()
    out += struct.pack("<I", len(data)) + data


def _write(out: bytearray, argument: Any, op: Op) -> None:
    if argument is None:
        out += b"N"
    elif isinstance(argument, Value):
        out += b"T" + struct.pack("<I", argument.number)
    elif isinstance(argument, bool):
        out += b"b" + struct.pack("<B", argument)
    elif isinstance(argument, (int, Affine)):
        out += b"i" + _integer(argument)
    elif isinstance(argument, float):
        out += b"f" + struct.pack("<d", argument)
    elif isinstance(argument, complex):
        out += b"c" + struct.pack("<dd", argument.real, argument.imag)
    elif isinstance(argument, str):
        out += b"s"
        _write_text(out, argument)
    elif isinstance(argument, torch.dtype):
        out += b"y"
        _write_text(out, str(argument).removeprefix("torch."))
    elif isinstance(argument, torch.memory_format):
        out += b"m"
        _write_text(out, str(argument).removeprefix("torch."))
    elif argument is torch.strided:
        out += b"l"
    elif isinstance(argument, torch.device):
        out += b"d"
        _write_text(out, str(argument))
    elif isinstance(argument, list):
        _write_list(out, argument, op)
    else:
        raise PlanError(f"{op.full_name} has an argument that a plan cannot keep: {argument!r}\n  at {op.place}")


def _integer(number: int | Affine) -> bytes:
    return struct.pack("<qq", number.base, number.slope) if isinstance(number, Affine) else struct.pack("<qq", number, 0)


def _write_list(out: bytearray, items: Sequence[Any], op: Op) -> None:
    size = struct.pack("<I", len(items))
    if any(isinstance(item, Value) for item in items):
        out += b"L" + size
        for item in items:
            out += struct.pack("<B", item is not None)
            if item is not None:
                out += struct.pack("<I", item.number)
    elif items and all(item is None for item in items):
        out += b"L" + size + b"\0" * len(items)
    elif items and all(isinstance(item, bool) for item in items):
        out += b"B" + size + bytes(items)
    elif all(isinstance(item, (int, Affine)) for item in items):
        out += b"I" + size + b"".join(map(_integer, items))
    elif all(isinstance(item, (int, float)) for item in items):
        out += b"F" + size + struct.pack(f"<{len(items)}d", *items)
    else:
        raise PlanError(f"{op.full_name} has a list that a plan cannot keep: {items!r}\n  at {op.place}")


# --- the batch ------------------------------------------------------------------------------------------------


def follow_batch(tapes: Sequence[Tape], batches: Sequence[int]) -> Tape:
    """One tape of several of the same function, taken with these sizes of the batch: what differs between them is
    written as a formula of the size.

    Raises:
        PlanError: where they do more than follow the batch.
    """
    first = tapes[0]
    for tape, batch in zip(tapes[1:], batches[1:], strict=True):
        for mine, other in zip(first.ops, tape.ops, strict=False):
            if mine.full_name != other.full_name:
                raise PlanError(
                    f"what runs depends on the size of the batch: {mine.full_name} with {batches[0]}, "
                    f"{other.full_name} with {batch}\n  at {mine.place}\n  and {other.place}"
                )
        if len(first.ops) != len(tape.ops):
            longer = max(first.ops, tape.ops, key=len)
            op = longer[min(len(first.ops), len(tape.ops))]
            raise PlanError(
                f"what runs depends on the size of the batch: {len(first.ops)} ops with {batches[0]}, {len(tape.ops)} "
                f"with {batch}; the first one more is {op.full_name}\n  at {op.place}"
            )
        if (first.outputs, list(first.shared)) != (tape.outputs, list(tape.shared)):
            raise PlanError(f"other tensors are used or returned with a batch of {batches[0]} than with one of {batch}")
        for number, shared in first.shared.items():
            _same_shared(shared, tape.shared[number], batches[0], batch)
    ops = []
    for index, op in enumerate(first.ops):
        others = [tape.ops[index] for tape in tapes]
        merged = [
            _merge([other.arguments[position] for other in others], batches, op)
            for position in range(len(op.arguments))
        ]
        if any(other.results != op.results for other in others):
            raise PlanError(f"{op.full_name} gives another number of tensors for another batch\n  at {op.place}")
        ops.append(Op(op.name, op.overload, merged, op.results, op.place, op.random, op.pure))
    return Tape(
        first.inputs,
        first.shared,
        ops,
        first.outputs,
        first.output_on_device,
        first.batched,
        first.written_inputs,
    )


def _same_shared(mine: Shared, other: Shared, batch: int, other_batch: int) -> None:
    a, b = mine.tensor, other.tensor
    if mine.constant and other.constant:
        if a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b):
            return
        raise PlanError(
            f"a tensor that the function makes from Python numbers has shape {tuple(a.shape)} with a batch of {batch} "
            f"and {tuple(b.shape)} with {other_batch}, or other values: make it from the input's size with an op"
        )
    if a is not b:
        raise PlanError(f"another tensor is used with a batch of {batch} than with one of {other_batch}")


def _merge(arguments: Sequence[Any], batches: Sequence[int], op: Op) -> Any:
    first = arguments[0]
    if isinstance(first, list):
        if any(not isinstance(other, list) or len(other) != len(first) for other in arguments):
            raise PlanError(f"an argument of {op.full_name} has another length for another batch\n  at {op.place}")
        return [_merge([other[index] for other in arguments], batches, op) for index in range(len(first))]
    if all(type(other) is type(first) and _equal(other, first) for other in arguments):
        return first
    if not all(isinstance(other, int) and not isinstance(other, bool) for other in arguments):
        raise PlanError(
            f"an argument of {op.full_name} depends on the size of the batch and is no integer: "
            f"{', '.join(f'{value!r} with {batch}' for value, batch in zip(arguments, batches, strict=True))}"
            f"\n  at {op.place}"
        )
    slope, rest = divmod(arguments[1] - arguments[0], batches[1] - batches[0])
    made = Affine(arguments[0] - slope * batches[0], slope)
    if rest or any(made.base + made.slope * n != value for n, value in zip(batches, arguments, strict=True)):
        raise PlanError(
            f"an argument of {op.full_name} is no linear function of the batch: "
            f"{', '.join(f'{value} with {batch}' for value, batch in zip(arguments, batches, strict=True))}"
            f"\n  at {op.place}"
        )
    return made


def _equal(a: Any, b: Any) -> bool:
    return a == b or (a != a and b != b)  # NaN too
