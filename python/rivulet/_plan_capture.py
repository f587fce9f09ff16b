"""Notes the ATen ops of one forward.

The mode below stands where PyTorch's dispatcher comes after autograd: it sees each op with its final arguments. An op
that PyTorch composes of others is noted whole where nothing in it is random or made from Python numbers, as one call
into PyTorch is quicker than several, and follows other shapes better.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ._plan_tape import Op, Place, PlanError, Shared, Tape, Value

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep

aten = torch.ops.aten

#: Composite ops that are noted as what they are made of: they may move tensors to another device.
_TAKEN_APART = {"aten::to", "aten::type_as", "aten::cpu", "aten::cuda", "aten::_to_cpu"}

#: Reads of single values beside those that PyTorch marks.
_READS = {"aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero", "aten::allclose"}

#: Random only where the dropout that they take is not 0.
_DROPOUT = {
    "aten::scaled_dot_product_attention": "dropout_p",
    "aten::_scaled_dot_product_attention_math": "dropout_p",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "dropout_p",
}


def user_place() -> Place:
    """The innermost line that is neither PyTorch's nor ours."""
    frame = sys._getframe(1)
    last = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE, "<")):
            return Place(file, frame.f_lineno, linecache.getline(file, frame.f_lineno).strip())
        last, frame = frame, frame.f_back  # type: ignore[assignment]
    return Place(last.f_code.co_filename, last.f_lineno, "")


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(items: Sequence[Any]) -> Iterator[torch.Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from (part for part in item if isinstance(part, torch.Tensor))


def _index_of_numbers(func: Any, args: Any) -> bool:
    """An index without masks, whose result has the shape of its indices."""
    return func._schema.name == "aten::index" and all(
        index.dtype not in (torch.bool, torch.uint8) for index in _tensors([args[1]])
    )


class Recorder(TorchDispatchMode):
    """Notes what runs while it is entered. One capture, one thread."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.shared: dict[int, Shared] = {}
        self._numbers: Any = WeakTensorKeyDictionary()
        self._next = 0
        #: Values that depend on inputs, on shared tensors or on chance; all others are the same at every call.
        self._live: set[int] = set()
        #: What may become a constant of the plan, kept until the end.
        self._kept: dict[int, torch.Tensor] = {}
        self._written: set[int] = set()
        self._fixed: set[int] = set()
        self.inputs = [self._number(tensor, live=True) for tensor in inputs]
        self._input_tensors = list(inputs)
        for tensor in inputs:
            self._fixed.add(_storage(tensor))

    # --- values -----------------------------------------------------------------------------------------------

    def _number(self, tensor: torch.Tensor, live: bool) -> int:
        number = self._next
        self._next += 1
        self._numbers[tensor] = number
        if live:
            self._live.add(number)
        return number

    def _known(self, tensor: torch.Tensor, place: Place, func: Any) -> int:
        """The number of an argument; a tensor not seen before comes from outside."""
        number = self._numbers.get(tensor)
        if number is not None:
            return int(number)
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise PlanError(f"{func.name()} uses a {type(tensor).__name__}, which a plan cannot keep\n  at {place}")
        if tensor.layout is not torch.strided:
            raise PlanError(f"{func.name()} uses a {tensor.layout} tensor; a plan takes dense ones\n  at {place}")
        number = self._number(tensor, live=True)
        self.shared[number] = Shared(tensor, constant=False)
        self._kept[number] = tensor
        self._fixed.add(_storage(tensor))
        return number

    def _is_live(self, tensors: Sequence[torch.Tensor]) -> bool:
        return any(self._numbers.get(tensor) is None or self._numbers[tensor] in self._live for tensor in tensors)

    # --- ops --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise PlanError(f"{func} is no op with a schema, which a plan cannot keep\n  at {user_place()}")
        name = func._schema.name
        special = _SPECIAL.get(name)
        if special is not None:
            with self:
                made = special(func, *args, **kwargs)
            if made is not NotImplemented:
                return made
        if name == "aten::lift_fresh":
            return self._constant(args[0])
        if name in ("aten::detach_", "prim::device"):
            return func(*args, **kwargs)
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        if composite and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "MPS"):
            return self._composite(func, args, kwargs)
        return self._leaf(func, args, kwargs)

    def _constant(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._numbers.get(tensor) is None:
            number = self._number(tensor, live=False)
            self.shared[number] = Shared(tensor, constant=True)
            self._kept[number] = tensor
        return tensor

    def _composite(self, func: Any, args: Any, kwargs: Any) -> Any:
        apart = func._schema.name in _TAKEN_APART or any(isinstance(a, torch.device) for a in (*args, *kwargs.values()))
        mark, before, shared = len(self.ops), self._next, set(self.shared)
        with self:
            result = func.decompose(*args, **kwargs)
        inner = self.ops[mark:]
        made_constants = any(self.shared[number].constant for number in set(self.shared) - shared)
        if apart or not inner or made_constants or any(op.random for op in inner):
            return result
        del self.ops[mark:]
        live = any(number in self._live for op in inner for number in (*op.values(), *op.made()))
        self._note(func, args, kwargs, result, live=live, random=False, inside=before)
        return result

    def _leaf(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name
        given = list(_tensors((*args, *kwargs.values())))
        place = user_place()
        for tensor in given:
            self._known(tensor, place, func)
        live = self._is_live(given)
        if live and (name in _READS or torch.Tag.data_dependent_output in func.tags):
            raise PlanError(
                f"{func.name()} reads a value on the CPU in the middle of the forward, which a plan cannot do: what "
                f"follows could depend on it\n  at {place}"
            )
        if live and torch.Tag.dynamic_output_shape in func.tags and not _index_of_numbers(func, args):
            raise PlanError(
                f"{func.name()} gives a tensor whose shape depends on values, which a plan cannot do\n  at {place}"
            )
        random = self._random(func, args, kwargs, place)
        if torch.Tag.inplace_view in func.tags or name in ("aten::resize_", "aten::resize_as_", "aten::set_"):
            if name == "aten::set_" or any(_storage(tensor) in self._fixed for tensor in given[:1]):
                raise PlanError(
                    f"{func.name()} changes the shape or memory of an input or of a tensor of the module, which a plan "
                    f"cannot do\n  at {place}"
                )
        result = func(*args, **kwargs)
        results = list(_tensors(result if isinstance(result, (list, tuple)) else [result]))
        if live and any(t.device.type == "mps" for t in given) and any(t.device.type != "mps" for t in results):
            raise PlanError(
                f"{func.name()} brings a tensor of the device to the CPU in the middle of the forward, which a plan "
                f"cannot do; return it, and call .cpu() on the plan's output\n  at {place}"
            )
        self._note(func, args, kwargs, result, live=live or random, random=random, place=place)
        return result

    def _random(self, func: Any, args: Any, kwargs: Any, place: Place) -> bool:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return False
        names = [argument.name for argument in func._schema.arguments]
        dropout = _DROPOUT.get(func._schema.name)
        if dropout is not None:
            position = names.index(dropout)
            value = kwargs.get(dropout, args[position] if position < len(args) else 0.0)
            if not value:
                return False
        if "generator" not in names:
            raise PlanError(
                f"{func.name()} draws random numbers without a generator, which a plan cannot do\n  at {place}"
            )
        position = names.index("generator")
        if kwargs.get("generator", args[position] if position < len(args) else None) is not None:
            raise PlanError(
                f"{func.name()} draws from a generator of its own; a plan draws from the device's\n  at {place}"
            )
        return True

    def _note(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        result: Any,
        *,
        live: bool,
        random: bool,
        place: Place | None = None,
        inside: int | None = None,
    ) -> None:
        """Adds an op. Results numbered from `inside` on were made by what the op is composed of."""
        place = place or user_place()
        schema = func._schema
        arguments: list[Any] = []
        pure = not random
        read: list[torch.Tensor] = []
        for position, argument in enumerate(schema.arguments):
            if position < len(args):
                value = args[position]
            elif argument.name in kwargs:
                value = kwargs[argument.name]
            else:
                value = argument.default_value
            tensors = list(_tensors([value]))
            read += tensors
            if argument.alias_info is not None and argument.alias_info.is_write:
                pure = False
                self._written.update(_storage(tensor) for tensor in tensors)
            arguments.append(self._keep(value, func, place))
        storages = {_storage(tensor) for tensor in read}
        fixed = bool(read) and all(self._numbers[t] in self._kept for t in read)

        def number(value: Any) -> int | None:
            if not isinstance(value, torch.Tensor):
                return None
            known = self._numbers.get(value)
            if known is not None and (inside is None or known < inside or known in self.shared):
                return None
            made = self._number(value, live)
            # A view of a shared tensor is shared as that one is; what depends on nothing is the same at each call.
            if not live or (pure and fixed and _storage(value) in storages):
                self._kept[made] = value
            return made

        returned = [result] if len(schema.returns) == 1 else list(result) if schema.returns else []
        results = [
            [number(part) for part in value] if isinstance(value, (list, tuple)) else number(value)
            for value in returned
        ]
        name, _, overload = func.name().partition(".")
        op = Op(name, overload, arguments, results, place, random, pure)
        if pure and schema.returns and not any(True for _ in op.made()):
            return  # a question that Python has its answer to, or an op that gave its argument back
        self.ops.append(op)

    def _keep(self, value: Any, func: Any, place: Place) -> Any:
        if isinstance(value, torch.Tensor):
            return Value(self._known(value, place, func))
        if isinstance(value, (list, tuple)):
            return [self._keep(item, func, place) for item in value]
        if isinstance(value, torch.SymInt):
            raise PlanError(f"{func.name()} has a symbolic size; a plan takes real ones\n  at {place}")
        return value

    # --- the end ----------------------------------------------------------------------------------------------

    def finish(self, outputs: Sequence[torch.Tensor]) -> Tape:
        """The tape that gives these outputs."""
        place = Place("the function's outputs", 0, "")
        numbers = [self._known(tensor, place, aten.alias.default) for tensor in outputs]
        for shared in self.shared.values():
            shared.written = _storage(shared.tensor) in self._written
        self._returned = {_storage(tensor) for tensor in outputs}
        return Tape(
            self.inputs,
            self.shared,
            self.ops,
            numbers,
            [tensor.device.type == "mps" for tensor in outputs],
            [False] * len(self.inputs),
            [_storage(tensor) in self._written for tensor in self._input_tensors],
        )

    def fold(self, tape: Tape) -> Tape:
        """The tape without ops whose results are the same at each call: those become shared tensors."""
        shared = dict(tape.shared)
        ops = []
        for op in tape.ops:
            made = list(op.made())
            folds = (
                op.pure
                and made
                and not op.follows_batch()
                and all(number in shared for number in op.values())
                and all(number in self._kept for number in made)
                and not any(
                    _storage(self._kept[number]) in self._returned
                    or (number not in self._live and _storage(self._kept[number]) in self._written)
                    for number in made
                )
            )
            if not folds:
                ops.append(op)
                continue
            for number in made:
                shared[number] = Shared(
                    self._kept[number],
                    constant=number not in self._live,
                    written=_storage(self._kept[number]) in self._written,
                )
        return Tape(
            tape.inputs, shared, ops, tape.outputs, tape.output_on_device, tape.batched, tape.written_inputs
        )


# --- ops that are noted as others -------------------------------------------------------------------------------


def _native_dropout(func: Any, input: torch.Tensor, p: float, train: bool | None) -> Any:
    if (train is not None and not train) or input.numel() == 0:
        return input.clone(), torch.ones_like(input, dtype=torch.bool)
    mask = torch.empty_like(input, dtype=torch.bool).bernoulli_(1 - p)
    return input.mul(mask).mul_(0.0 if p == 1 else 1.0 / (1.0 - p)), mask


def _dropout(func: Any, input: torch.Tensor, p: float, train: bool) -> Any:
    # PyTorch gives an alias of the input.
    return NotImplemented if train and p != 0 else input


def _filled(fill: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def special(func: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("generator", None) is not None:
            return NotImplemented
        names = [a.name for a in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        options = {k: given[k] for k in ("dtype", "layout", "device") if given.get(k) is not None}
        if "self" in given:
            made = torch.empty_like(given["self"], **options)
        else:
            made = torch.empty(given["size"], **options)
        return fill(made, given)

    return special


def _integers(made: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    return made.random_(given.get("low", 0), given["high"])


def _attention(func: Any, *args: Any, **kwargs: Any) -> Any:
    names = [a.name for a in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    if not given.get("dropout_p"):
        return NotImplemented
    return aten._scaled_dot_product_attention_math.default(
        given["query"],
        given["key"],
        given["value"],
        given.get("attn_mask"),
        given["dropout_p"],
        given.get("is_causal", False),
        scale=given.get("scale"),
        enable_gqa=given.get("enable_gqa", False),
    )[0]


_SPECIAL: dict[str, Callable[..., Any]] = {
    "aten::native_dropout": _native_dropout,
    "aten::dropout": _dropout,
    "aten::feature_dropout": _dropout,
    "aten::alpha_dropout": _dropout,
    "aten::rand": _filled(lambda made, given: made.uniform_()),
    "aten::rand_like": _filled(lambda made, given: made.uniform_()),
    "aten::randn": _filled(lambda made, given: made.normal_()),
    "aten::randn_like": _filled(lambda made, given: made.normal_()),
    "aten::scaled_dot_product_attention": _attention,
}


# --- running a function to note it -------------------------------------------------------------------------------


_switch_lock = threading.Lock()
_switched = 0
_before: Any = None


@contextlib.contextmanager
def _as_compiling() -> Iterator[None]:
    """Libraries ask PyTorch whether a graph is being taken, and leave their looks at values out then. The switch is the
    process's; eager code of other threads may leave them out too for the time."""
    global _switched, _before
    compiler: Any = torch.compiler
    with _switch_lock:
        if _switched == 0:
            _before = getattr(compiler, "_is_compiling_flag", None)
        _switched += 1
        if _before is not None:
            compiler._is_compiling_flag = True
    try:
        yield
    finally:
        with _switch_lock:
            _switched -= 1
            if _switched == 0 and _before is not None:
                compiler._is_compiling_flag = _before


def record(run: Callable[[], Any], inputs: Sequence[torch.Tensor]) -> tuple[Recorder, Any]:
    """Runs a function without gradients and notes its ops."""
    recorder = Recorder(inputs)
    with torch.no_grad(), _as_compiling(), torch._C._AutoDispatchBelowAutograd(), recorder:
        result = run()
    return recorder, result
