"""A model as one call.

:func:`capture` runs a function once, notes the ops below autograd, and gives a :class:`Plan`: a callable with the
function's arguments and outputs that runs those ops without Python and without its lock.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from . import _load, _plan_explain, _plan_file, _plan_tree
from ._call_queue import UNLIMITED
from ._plan_capture import record
from ._plan_tape import BATCHES, PlanError, Tape, follow_batch
from ._plan_tree import Tree

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_SHAPES = 16


def _surface() -> tuple[Any, ...]:
    suffix = _load.SUFFIX
    path = os.path.join(os.path.dirname(torch.__file__), "lib", f"libtorch_python{suffix}")
    made = _load.native().plan_surface(path)
    calibrate = made[-1]
    for tensor in (torch.empty(0), torch.nn.Parameter(torch.empty(0))):
        if not calibrate(tensor, tensor._cdata):
            raise RuntimeError(f"plans do not know how torch {torch.__version__} keeps its tensors")
    return made


(
    _Base,
    _open,
    _set_plain,
    _add,
    _run,
    _note,
    _drop,
    _stats,
    _variants,
    _programs,
    _join_calls,
    _joined_stats,
    _prepare_joined,
    _,
) = _surface()

_TENSOR, _TUPLE, _LIST, _REBUILT = range(4)
_HOST, _OPS, _DEVICE = range(3)


def _path(path: int, programs: int, refused: str) -> str:
    """How a variant runs, in words."""
    if path == _HOST:
        return "CPU kernels without Python"
    if path == _DEVICE and programs:
        return "a program of the device"
    return f"one op after the other{': ' + refused if refused else ''}"


@dataclass
class Taken:
    """What is known of one variant of a plan beside its tape in C++."""

    tape: Tape
    tree: Tree
    """Of the outputs."""
    others: dict[int, Any]
    """Outputs that are no tensors, by their places among the leaves."""
    inputs: list[torch.Tensor]
    """Tensors without memory in the shapes of the inputs."""
    key: Any = None
    """The structure of the arguments."""
    devices: list[torch.device] = field(default_factory=list)

    @property
    def sizes(self) -> list[tuple[int | str, ...]]:
        """Sizes of the inputs; the free batch is "batch"."""
        batched = self.tape.batched
        return [
            ("batch", *tensor.shape[1:]) if free else tuple(tensor.shape)
            for tensor, free in zip(self.inputs, batched, strict=True)
        ]


def _form(tree: Tree, outputs: int, leaves: int) -> int:
    if leaves == outputs == 1 and tree == _plan_tree.flatten(torch.empty(0))[1]:
        return _TENSOR
    if leaves == outputs:
        for form, kind in ((_TUPLE, tuple), (_LIST, list)):
            if tree == _plan_tree.flatten(kind([0] * leaves))[1]:
                return form
    return _REBUILT


class Plan(_Base):  # type: ignore[misc, valid-type]
    """A function as a tape of ATen ops. Made by :func:`capture` or :func:`load_plan`; any number of threads may call
    it at once, each on its own stream.

    A call takes what the function takes and gives what it gives, without gradients. Tensors of another shape, dtype or
    layout than before are noted first, which runs the function again.
    """

    def __init__(self, function: Callable[..., Any] | None, name: str, dynamic_batch: bool, max_shapes: int) -> None:
        self._function = function
        self._name = name
        self._dynamic = dynamic_batch
        self._lock = threading.RLock()
        self._structures: dict[Any, int] = {}
        self._taken: dict[int, Taken] = {}
        self._next_structure = 1
        self._max_shapes = max_shapes
        self._capsule = _open(self, name, max_shapes)

    # --- calls that are not plain -----------------------------------------------------------------------------

    def _slow(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            # Somebody notes ops: they shall see this function's.
            return self._need_function()(*args, **(kwargs or {}))
        leaves, tree = _plan_tree.flatten((args, dict(sorted((kwargs or {}).items()))))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        self._check(tensors)
        others = tuple((i, type(leaf), leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor))
        try:
            structure = self._structures.get((tree, others))
        except TypeError as error:
            raise PlanError(
                f"{self._name} was called with an argument that is neither a tensor nor hashable: {error}"
            ) from None
        if structure is not None:
            found = _run(self, structure, tensors)
            if found is not None:
                _note(self, 1)
                return self._rebuild(*found)
        with self._lock:
            # Another thread may have noted it meanwhile.
            if structure is not None and (found := _run(self, structure, tensors)) is not None:
                _note(self, 1)
                return self._rebuild(*found)
            self._need_function()
            _note(self, 0)
            return self._take(tree, others, leaves)

    def _need_function(self) -> Callable[..., Any]:
        if self._function is None:
            known = "; ".join(str(taken.sizes) for taken in self._taken.values())
            raise PlanError(
                f"{self._name} was loaded from a file and cannot note new shapes or arguments; it knows inputs of the "
                f"sizes {known}"
            )
        return self._function

    def _check(self, tensors: Sequence[torch.Tensor]) -> None:
        for position, tensor in enumerate(tensors):
            if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
                raise PlanError(
                    f"tensor argument {position} of {self._name} is a {type(tensor).__name__}; a plan takes plain tensors"
                )
            if tensor.layout is not torch.strided:
                raise PlanError(
                    f"tensor argument {position} of {self._name} is {tensor.layout}; a plan takes dense tensors"
                )
            if tensor.requires_grad and torch.is_grad_enabled():
                raise PlanError(
                    f"tensor argument {position} of {self._name} requires grad, and a plan gives no gradients: call it "
                    "under torch.no_grad(), or pass the tensor's .detach()"
                )

    def _rebuild(self, taken: Taken, outputs: Sequence[torch.Tensor]) -> Any:
        if not taken.others:
            return taken.tree.unflatten(outputs)
        tensors = iter(outputs)
        count = len(outputs) + len(taken.others)
        return taken.tree.unflatten([taken.others[i] if i in taken.others else next(tensors) for i in range(count)])

    # --- noting -----------------------------------------------------------------------------------------------

    def _take(self, tree: Tree, others: Any, leaves: list[Any]) -> Any:
        """Notes the function for these arguments, and gives its outputs for them."""
        key = (tree, others)
        structure = self._structures.get(key)
        if structure is None:
            structure = 0 if self._is_plain(tree, others) else self._next_structure
            self._next_structure += 1
        before = self._snapshot()
        result, taken, tensors = (self._take_batches if self._dynamic else self._take_exact)(tree, leaves)
        taken.key = key
        self._insert(structure, taken, tensors, self._bindings(taken.tape, before))
        return result

    def _insert(self, structure: int, taken: Taken, tensors: Sequence[torch.Tensor], bindings: list[Any]) -> None:
        tape = taken.tape
        variant = _add(
            self,
            structure,
            tape.to_bytes(),
            tuple(tensors),
            tuple(shared.tensor for shared in tape.shared.values()),
            _form(taken.tree, len(tape.outputs), len(tape.outputs) + len(taken.others)),
            tuple(bindings),
            taken,
        )
        # Replaced, not changed: other threads read them without the lock.
        alive = {number for number, *_ in _variants(self)}
        kept = {number: old for number, old in self._taken.items() if number in alive}
        self._taken = {**kept, variant: taken}
        if taken.key not in self._structures:
            if structure == 0:
                tree = taken.key[0]
                arguments, named = tree.unflatten([0] * tree.count)
                _set_plain(self, len(arguments), tuple(named))
            used = {old.key for old in self._taken.values()}
            kept_keys = {key: number for key, number in self._structures.items() if number == 0 or key in used}
            self._structures = {**kept_keys, taken.key: structure}

    def _is_plain(self, tree: Tree, others: Any) -> bool:
        """Whether these are the arguments that C++ takes apart: tensors alone, and the first of that kind."""
        leaves = [0] * tree.count
        arguments, named = tree.unflatten(leaves)
        flat = all(argument == 0 and isinstance(argument, int) for argument in (*arguments, *named.values()))
        return not others and flat and len(leaves) == len(arguments) + len(named) and 0 not in self._structures.values()

    def _call(self, tree: Tree, leaves: list[Any]) -> Any:
        arguments, named = tree.unflatten(leaves)
        return self._need_function()(*arguments, **named)

    def _take_exact(self, tree: Tree, leaves: list[Any]) -> Any:
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        recorder, result = record(lambda: self._call(tree, leaves), tensors)
        outputs, out_tree = _plan_tree.flatten(result)
        tape = recorder.finish([leaf for leaf in outputs if isinstance(leaf, torch.Tensor)])
        return result, _describe(recorder.fold(tape).renumbered(), out_tree, outputs, tensors), tensors

    def _take_batches(self, tree: Tree, leaves: list[Any]) -> Any:
        given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim() > 0]
        if not given:
            raise PlanError(f"dynamic_batch=True: {self._name} has no tensor argument with a dimension")
        size = given[0].shape[0]
        batched = [isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == size for leaf in leaves]
        tapes = []
        first: Any = None
        for batch in BATCHES:
            scaled = [
                _rows(leaf, batch) if is_batched else leaf for leaf, is_batched in zip(leaves, batched, strict=True)
            ]
            tensors = [leaf for leaf in scaled if isinstance(leaf, torch.Tensor)]
            recorder, result = record(lambda scaled=scaled: self._call(tree, scaled), tensors)  # type: ignore[misc]
            outputs, out_tree = _plan_tree.flatten(result)
            tape = recorder.finish([leaf for leaf in outputs if isinstance(leaf, torch.Tensor)])
            tape.batched = [
                is_batched
                for leaf, is_batched in zip(leaves, batched, strict=True)
                if isinstance(leaf, torch.Tensor)
            ]
            if any(tape.written_inputs) or any(shared.written for shared in tape.shared.values()):
                raise PlanError(
                    f"dynamic_batch=True: {self._name} changes an input or a tensor of the module in place, and noting "
                    "it for several sizes would do that several times"
                )
            others = [leaf for leaf in outputs if not isinstance(leaf, torch.Tensor)]
            if first is None:
                first = (recorder, tensors, outputs, out_tree, others)
            elif (out_tree, others) != (first[3], first[4]):
                raise PlanError(f"dynamic_batch=True: what {self._name} gives depends on the size of the batch")
            tapes.append(tape)
        recorder, tensors, outputs, out_tree, _ = first
        tape = recorder.fold(follow_batch(tapes, BATCHES)).renumbered()
        with torch.no_grad():
            result = self._call(tree, leaves)
        return result, _describe(tape, out_tree, outputs, tensors), tensors

    # --- the module's tensors ---------------------------------------------------------------------------------

    def _snapshot(self) -> list[tuple[dict[str, Any], str, Any, str]]:
        return [
            (tensors, key, tensor, f"{name}.{key}" if name else key)
            for root in _modules_of(self._function)
            for name, module in root.named_modules()
            for tensors in (module._parameters, module._buffers)
            for key, tensor in tensors.items()
        ]

    def _bindings(self, tape: Tape, before: list[Any]) -> list[tuple[dict[str, Any], str, Any]]:
        by_id = {id(tensor): name for _, _, tensor, name in before}
        for shared in tape.shared.values():
            shared.name = by_id.get(id(shared.tensor), "")
        used = {id(shared.tensor) for shared in tape.shared.values()}
        return [(tensors, key, tensor) for tensors, key, tensor, _ in before if id(tensor) in used]

    # --- what people ask --------------------------------------------------------------------------------------

    def coalesce(
        self,
        *,
        max_batch: int = 64,
        max_in_flight: int = 1,
        max_queue: int | None = None,
        max_wait_us: float = 0,
        regroup: bool = True,
        spin_us: float = 50,
    ) -> Self:
        """From now on, calls of several threads are joined on dimension 0 and run as one; gives the plan.

        A call that comes while none runs starts at once; those that come meanwhile run next, together, in the order of
        arrival. Each caller gets its own rows, a view of the batch's, and its own error. The result is complete on the
        device when the call returns. Calls that have a tensor without the batch, or another shape beside it, run by
        themselves. To be called before threads use the plan; the plan needs `dynamic_batch`.

        Args:
            max_batch: rows of a batch, at most. A call that has more runs by itself.
            max_in_flight: batches that run at a time.
            max_queue: calls that wait, at most; further ones wait for room. None for any number.
            max_wait_us: how long a call waits for its batch to become full, in microseconds.
            regroup: whether a batch waits a little for the callers of the batch before it to come back.
            spin_us: how long a waiting thread polls before it sleeps, in microseconds; on fewer than four cores none does.
        """
        if not self._dynamic:
            raise ValueError("coalesce joins calls on dimension 0, which is fixed: capture with dynamic_batch=True")
        for option, value in (("max_batch", max_batch), ("max_in_flight", max_in_flight), ("max_queue", max_queue)):
            if (option, value) != ("max_queue", None) and not (isinstance(value, int) and value > 0):
                raise ValueError(f"{option} must be an integer > 0, got {value!r}")
        for option, time in (("max_wait_us", max_wait_us), ("spin_us", spin_us)):
            if not 0 <= time < 1e12:
                raise ValueError(f"{option} must be >= 0 microseconds and < 1e12, got {time!r}")
        queue = UNLIMITED if max_queue is None else max_queue
        _join_calls(self, max_batch, max_in_flight, queue, int(max_wait_us), int(regroup), int(spin_us))
        return self

    def warm_up(self) -> Self:
        """Runs the plan for each size of a joined batch, so that no later call waits for a kernel to be compiled; gives
        the plan.

        Batches are filled up to one of a few sizes: 1, 2, 3, 4, 6, 8, 12, ... until `max_batch` has room. Kernels of
        the device are chosen by size, and the first batch of each would compile its own, some ten milliseconds or more
        on a GPU. Shapes that the plan knows are run with zeros, one after the other, on this thread, with the memory that
        batches of that size need. Shapes whose calls are not joined, and those that run as CPU kernels, have nothing to
        compile. May be called beside calls of other threads.

        Raises:
            ValueError: where calls are not joined.
        """
        if _joined_stats(self) is None:
            raise ValueError("warm_up runs the sizes of joined batches, and calls are not joined: call coalesce() first")
        with self._lock:
            known = [(self._structures[taken.key], taken) for taken in self._taken.values() if all(taken.tape.batched)]
        with torch.no_grad():
            for structure, taken in known:
                rows = tuple(
                    torch.zeros(1, *like.shape[1:], dtype=like.dtype, device=device)
                    for like, device in zip(taken.inputs, taken.devices, strict=True)
                )
                _prepare_joined(self, structure, rows)
        return self

    def stats(self) -> dict[str, Any]:
        """Counts since the plan was made: calls, hits (a tape fitted), misses (one had to be taken), evictions, rebound
        (a tensor of the module was exchanged); the shapes that are kept now, the latest used first, with what a run
        of CPU kernels usually takes on one thread and on several where both were measured; and where calls are joined, the
        figures of their batches as :meth:`rivulet.Batcher.stats` gives them."""
        calls, hits, misses, evictions, rebound = _stats(self)
        shapes = [
            {
                "inputs": self._taken[number].sizes,
                "dynamic_batch": any(self._taken[number].tape.batched),
                "path": _path(path, programs, refused),
                "frames": frames,
                "programs": programs,
                "threads_seconds": tuple(nanoseconds * 1e-9 for nanoseconds in times) or None,
            }
            for number, path, frames, programs, refused, times in _variants(self)
            if number in self._taken
        ]
        return {
            "calls": calls,
            "hits": hits,
            "misses": misses,
            "evictions": evictions,
            "rebound": rebound,
            "shapes": shapes,
            "joined": json.loads(_joined_stats(self) or "null"),
        }

    def explain(self) -> str:
        """What the plan runs, as text: ops and their lines, what is shared, how it runs and why, memory."""
        shapes = [
            _plan_explain.Shape(
                taken.tape,
                taken.sizes,
                _path(path, programs, refused),
                frames,
                [json.loads(text) for text in _programs(self, number)],
                times,
            )
            for number, path, frames, programs, refused, times in _variants(self)
            if (taken := self._taken.get(number)) is not None
        ]
        return _plan_explain.explain(self._name, shapes)

    # --- files ------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan with its shared tensors to a file for :func:`load_plan`.

        Raises:
            PlanError: where an argument or output is of a type that has no place in a file.
        """
        storages = _plan_file.Storages()
        with self._lock:
            variants = [self._taken[number] for number, *_ in _variants(self) if number in self._taken]
            content = {
                "name": self._name,
                "dynamic_batch": self._dynamic,
                "max_shapes": self._max_shapes,
                "variants": [_variant_to_json(taken, storages) for taken in reversed(variants)],
            }
            _plan_file.write(path, content, storages.kept)

    def __repr__(self) -> str:
        return f"<rivulet.Plan of {self._name}, {len(_variants(self))} shapes>"


def _describe(tape: Tape, out_tree: Tree, outputs: list[Any], tensors: list[torch.Tensor]) -> Taken:
    others = {i: leaf for i, leaf in enumerate(outputs) if not isinstance(leaf, torch.Tensor)}
    empty = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in tensors]
    return Taken(tape, out_tree, others, empty, devices=[tensor.device for tensor in tensors])


def _variant_to_json(taken: Taken, storages: _plan_file.Storages) -> Any:
    tree, others = taken.key
    return {
        "arguments": _plan_tree.to_json(tree),
        "other_arguments": [[place, _plan_file.leaf_to_json(leaf)] for place, _, leaf in others],
        "outputs": _plan_tree.to_json(taken.tree),
        "other_outputs": [[place, _plan_file.leaf_to_json(leaf)] for place, leaf in taken.others.items()],
        "inputs": [
            {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "device": device.type,
                "sizes": list(tensor.shape),
                "strides": list(tensor.stride()),
            }
            for tensor, device in zip(taken.inputs, taken.devices, strict=True)
        ],
        "tape": _plan_file.tape_to_json(taken.tape, storages),
    }


def _variant_from_json(plan: Plan, value: Any, storages: Sequence[torch.Tensor]) -> None:
    tree = _plan_tree.from_json(value["arguments"])
    leaves = [(int(place), _plan_file.leaf_from_json(leaf)) for place, leaf in value["other_arguments"]]
    others = tuple((place, type(leaf), leaf) for place, leaf in leaves)
    inputs = [
        torch.empty_strided(
            one["sizes"], one["strides"], dtype=getattr(torch, str(one["dtype"])), device=str(one["device"])
        )
        for one in value["inputs"]
    ]
    tape = _plan_file.tape_from_json(value["tape"], storages)
    out_tree = _plan_tree.from_json(value["outputs"])
    other_outputs = {int(place): _plan_file.leaf_from_json(leaf) for place, leaf in value["other_outputs"]}
    if out_tree.count != len(tape.outputs) + len(other_outputs):
        raise ValueError("its outputs do not fit their structure")
    taken = _describe(tape, out_tree, [], inputs)
    taken.others, taken.key = other_outputs, (tree, others)
    structure = 0 if plan._is_plain(tree, others) else plan._next_structure
    structure = plan._structures.get(taken.key, structure)
    plan._next_structure += 1
    plan._insert(structure, taken, inputs, [])


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """A plan from a file that :meth:`Plan.save` wrote. It runs the shapes that were noted, and notes no others. Reading
    runs no code of the file.

    Raises:
        PlanFileError: where the file is no plan, is damaged, or is of another PyTorch.
        OSError: where it cannot be read.
    """
    content, storages = _plan_file.read(path)

    def build() -> Plan:
        plan = Plan(None, str(content["name"]), bool(content["dynamic_batch"]), int(content["max_shapes"]))
        for value in content["variants"]:
            _variant_from_json(plan, value, storages)
        return plan

    return _plan_file.check(build, os.fspath(path))  # type: ignore[no-any-return]


def _modules_of(function: Any) -> list[torch.nn.Module]:
    """The module that a function is, belongs to, or names in its own code."""
    function = inspect.unwrap(function) if callable(function) else function
    if isinstance(function, functools.partial):
        return [module for part in (function.func, *function.args) for module in _modules_of(part)]
    owner = getattr(function, "__self__", function)
    if isinstance(owner, torch.nn.Module):
        return [owner]
    if not inspect.isfunction(function):
        return []
    named = inspect.getclosurevars(function)
    found = [*named.nonlocals.values(), *named.globals.values()]
    return [value for value in found if isinstance(value, torch.nn.Module)]


def _rows(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """The tensor with so many rows, its own over again, in the same memory layout."""
    index = torch.arange(batch, device=tensor.device) % max(tensor.shape[0], 1)
    rows = tensor.detach().index_select(0, index) if tensor.shape[0] else tensor.new_zeros((batch, *tensor.shape[1:]))
    if tensor.is_contiguous():
        return rows
    made = torch.empty_strided((batch, *tensor.shape[1:]), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return made.copy_(rows)


def capture(
    function: Callable[..., Any],
    /,
    *args: Any,
    dynamic_batch: bool = False,
    max_shapes: int = MAX_SHAPES,
    coalesce: bool = False,
    **kwargs: Any,
) -> Plan:
    """Notes what `function` does with these arguments, and gives a plan of it.

    The function (a module, or any callable) is run once, without gradients; with `dynamic_batch` once for each of
    several sizes of dimension 0, and the plan then takes any size. Parameters, buffers and other tensors that the
    function uses are shared with it: a later change in place is seen.

    Args:
        dynamic_batch: dimension 0 of every tensor argument with as many rows as the first one is free.
        max_shapes: so many tapes are kept; the one that was not used for longest goes first.
        coalesce: joins the calls of several threads, see :meth:`Plan.coalesce`, which takes settings; `dynamic_batch` with
            it.

    Raises:
        PlanError: where the function cannot become a plan. The text names the op and the line.
    """
    if max_shapes < 1:
        raise ValueError(f"max_shapes={max_shapes}: at least 1")
    name = type(function).__name__ if isinstance(function, torch.nn.Module) else getattr(function, "__qualname__", "")
    plan = Plan(function, name or "plan", dynamic_batch or coalesce, max_shapes)
    leaves, tree = _plan_tree.flatten((args, dict(sorted(kwargs.items()))))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    with torch.no_grad():
        plan._check(tensors)
    others = tuple((i, type(leaf), leaf) for i, leaf in enumerate(leaves) if not isinstance(leaf, torch.Tensor))
    with plan._lock:
        plan._take(tree, others, leaves)
    return plan.coalesce() if coalesce else plan
