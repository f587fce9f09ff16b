"""Calls of a model as tensors that can be joined on dim 0, run as one, and split again.

A :class:`Request` is one call. Its key says what it may be joined with: the same structure, and tensors of the same
type, device and sizes but for dim 0. :class:`Joiner` makes requests and runs a list of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from . import _load
from ._native import NO_STREAM

if TYPE_CHECKING:
    from ._padding import Padding

Tensor = torch.Tensor

#: Values that everybody may share; anything else that is no tensor keeps a call from being joined.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, enum.Enum)

_UNSET: Any = object()
_MASK64 = 2**64 - 1
#: Kinds of calls of which something is known; a program that makes up new ones for ever starts again.
_REMEMBERED = 512


class CannotSplit(Exception):
    """The output of a joined run cannot be told apart into those of its members."""


class Request:
    """One call: what it brought along, and what becomes of it."""

    # Defaults of the class: a call sets few of them.
    spec: Any = None
    mode: Any = None
    key: Any = None
    """Equal keys may be joined."""
    hash = 0
    rows = 1
    length: int | None = None
    long: Sequence[bool] | None = None
    mask: Any = None
    result: Any = _UNSET
    error: BaseException | None = None
    future: Any = None
    started = False
    deadline: float | None = None
    token = 0

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        #: The values in the arguments, in order; `spec` tells how to build the arguments of them. Without it they are the
        #: arguments.
        self.leaves: Sequence[Any] = args

    def is_done(self) -> bool:
        """True where it has a result or an error."""
        return self.result is not _UNSET or self.error is not None


class Joiner:
    """Makes requests for a model, and runs them. Any thread."""

    def __init__(self, model: Callable[..., Any], padding: Padding | None = None) -> None:
        self.model = model
        self._module = model if isinstance(model, torch.nn.Module) else None
        self._padding = padding
        #: Keys of calls whose outputs cannot be told apart.
        self._apart: set[Any] = set()
        #: Of padded calls: which tensors of the output are to be cut, by key.
        self._long_outputs: dict[Any, list[bool]] = {}
        native = _load.native()
        self._fail, self._synchronize_stream = native.fail, native.c["rivulet_stream_synchronize"]

    # --- requests -------------------------------------------------------------------------------------------

    def request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """One call.

        Raises:
            ValueError: for tensors that cannot be rows of a batch.
        """
        request = Request(args, kwargs)
        if torch.is_autocast_enabled("mps"):
            request.mode = torch.get_autocast_dtype("mps")
        parts: list[Any] = [request.mode]
        long: Sequence[bool] | None = None
        if self._padding is not None:
            self._padding.prepare(request, parts)
            long = request.long
        elif kwargs or not _flat(args):
            # The order of keywords means nothing.
            kwargs = dict(sorted(kwargs.items()))
            request.leaves, request.spec = pytree.tree_flatten((args, kwargs))
            parts.append(request.spec)
        rows = None
        records = torch.is_grad_enabled()
        joinable = True
        for index, x in enumerate(request.leaves):
            if isinstance(x, Tensor):
                if records and x.requires_grad:
                    raise ValueError(
                        "an input requires a gradient, and joined calls record none: call the model itself, or make "
                        "the call under torch.no_grad()"
                    )
                shape = x.shape
                if not shape:
                    # Without rows it has to be the same for all of a batch.
                    parts.append(id(x))
                    continue
                if rows is None:
                    rows = shape[0]
                elif shape[0] != rows:
                    raise ValueError(
                        f"the tensors of one call have {rows} and {shape[0]} rows in dim 0; all must have the same "
                        "number, because calls are joined there"
                    )
                if long is not None and long[index]:
                    parts.append((len(shape), shape[2:], x.dtype, x.device))
                else:
                    parts.append((shape[1:], x.dtype, x.device))
            elif isinstance(x, _PLAIN):
                parts.append((type(x), x))
            else:
                joinable = False
        if rows:
            request.rows = rows
        # Without rows there is nothing to join.
        key: Any = tuple(parts) if joinable and rows else object()
        if self._apart and key in self._apart:
            key = object()
        request.key, request.hash = key, hash(key) & _MASK64
        return request

    # --- runs -----------------------------------------------------------------------------------------------

    def run(self, requests: Sequence[Request]) -> list[Any]:
        """Runs requests of one key as one; a result for each, complete on the device.

        Raises whatever the model raises.
        """
        if len(requests) == 1:
            return [self.run_single(requests[0])]
        self._check_mode()
        try:
            results: list[Any] = _in_mode(requests[0].mode, self.run_joined, requests)
        except CannotSplit:
            self.keep_apart(requests[0].key)
            raise
        if _on_device(results[0]):
            self._synchronize()
        return results

    def run_single(self, request: Request) -> Any:
        """Runs one request by itself; its result, complete on the device."""
        self._check_mode()
        result = _in_mode(request.mode, self.run_alone, request)
        if _on_device(result):
            self._synchronize()
        return result

    def _check_mode(self) -> None:
        if self._module is not None and self._module.training:
            raise RuntimeError(
                "the model is in training mode, in which the rows of a batch change one another's results: call "
                "model.eval() first"
            )

    def _synchronize(self) -> None:
        status = self._synchronize_stream(NO_STREAM)
        if status:
            self._fail(status)

    def run_alone(self, request: Request) -> Any:
        """One call as it came."""
        return self.model(*request.args, **request.kwargs)

    def run_joined(self, requests: Sequence[Request]) -> list[Any]:
        """Several as one."""
        first = requests[0]
        sizes = [request.rows for request in requests]
        if self._padding is None:
            leaves = self.joined_leaves(requests)
            args, kwargs = (leaves, {}) if first.spec is None else pytree.tree_unflatten(leaves, first.spec)
            return split(self.model(*args, **kwargs), sizes)
        args, kwargs, lengths = self._padding.join(requests)
        output = self.model(*args, **kwargs)
        if lengths is None:
            return split(output, sizes)
        long = self._long_outputs.get(first.key)
        if long is None:
            long = self._find_long_outputs(output, requests, max(lengths))
            if len(self._long_outputs) >= _REMEMBERED:
                self._long_outputs.clear()
            self._long_outputs[first.key] = long
        return split(output, sizes, lengths, iter(long))

    def _find_long_outputs(self, joined: Any, requests: Sequence[Request], longest: int) -> list[bool]:
        """Which tensors of the output are as long as the input: those that are in the joined run and in one of a shorter
        call alone. One of the two shows nothing, a number of features may be the same as a length."""
        shortest = min(requests, key=lambda request: request.length or 0)
        pairs = zip(_tensors(joined), _tensors(self.run_alone(shortest)))
        return [
            a.dim() >= 2 and b.dim() >= 2 and a.shape[1] == longest and b.shape[1] == shortest.length for a, b in pairs
        ]

    def joined_leaves(self, requests: Sequence[Request]) -> list[Any]:
        """The values of the arguments of a joined run."""
        return [
            torch.cat([request.leaves[index] for request in requests]) if isinstance(x, Tensor) and x.dim() else x
            for index, x in enumerate(requests[0].leaves)
        ]

    def keep_apart(self, key: Any) -> None:
        """Joins no more calls of this kind."""
        if len(self._apart) >= _REMEMBERED:
            self._apart.clear()
        self._apart.add(key)


def _flat(args: tuple[Any, ...]) -> bool:
    for x in args:
        if type(x) is not Tensor:
            return False
    return True


# --- outputs ------------------------------------------------------------------------------------------------


def split(
    output: Any, sizes: Sequence[int], lengths: Sequence[int] | None = None, long: Iterator[bool] | None = None
) -> list[Any]:
    """The output of a joined run as one for each member. Tensors are cut on dim 0 into `sizes` without copying; those that
    `long` says yes to, which has an answer for each tensor in order, on dim 1 to `lengths` too.

    Raises:
        CannotSplit: for anything that is not built of tensors with these rows and of plain values.
    """
    if isinstance(output, Tensor):
        return _split_tensor(output, sizes, lengths, long)
    leaves, spec = pytree.tree_flatten(output)
    columns = [_split_leaf(leaf, sizes, lengths, long) for leaf in leaves]
    return [pytree.tree_unflatten(row, spec) for row in zip(*columns)] if columns else [output] * len(sizes)


def _split_leaf(
    leaf: Any, sizes: Sequence[int], lengths: Sequence[int] | None, long: Iterator[bool] | None
) -> list[Any]:
    if isinstance(leaf, Tensor):
        return _split_tensor(leaf, sizes, lengths, long)
    if isinstance(leaf, _PLAIN):
        return [leaf] * len(sizes)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        copies = [copy(leaf) for _ in sizes]
        for field in dataclasses.fields(leaf):
            for made, part in zip(copies, split(getattr(leaf, field.name), sizes, lengths, long)):
                object.__setattr__(made, field.name, part)
        return copies
    raise CannotSplit(
        f"the model's output has a {type(leaf).__name__} in it, of which it is not known whose rows it holds; calls "
        "with such outputs are not joined"
    )


def _split_tensor(
    x: Tensor, sizes: Sequence[int], lengths: Sequence[int] | None, long: Iterator[bool] | None
) -> list[Any]:
    if not x.dim() or x.shape[0] != sum(sizes):
        raise CannotSplit(
            f"the model's output of shape {list(x.shape)} cannot be told apart: its inputs had {sum(sizes)} rows, and "
            "dim 0 of every tensor in the output has to have as many; calls with such outputs are not joined"
        )
    # `data`: each part counts its own writes, or one caller's would spoil what another has saved for its backward.
    parts = [part.data for part in x.split(sizes)]
    if long is not None and lengths is not None and next(long, False):
        parts = [part[:, :length] for part, length in zip(parts, lengths)]
    return parts


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of an output, in the order of :func:`split`."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                found += _tensors(getattr(leaf, field.name))
    return found


def _on_device(result: Any) -> bool:
    if isinstance(result, Tensor):
        return result.is_mps
    return any(x.is_mps for x in _tensors(result))


# --- the calling thread's modes -----------------------------------------------------------------------------


def _in_mode(autocast: Any, run: Callable[[Any], Any], what: Any) -> Any:
    """Runs something without gradients and under the autocast of its requests, whatever the modes of this thread are."""
    if autocast is None and not torch.is_autocast_enabled("mps") and not torch.is_inference_mode_enabled():
        # The usual case, in a fraction of the time of a context manager.
        records = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            return run(what)
        finally:
            torch._C._set_grad_enabled(records)
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            # The others' results must not be inference tensors because this thread's may.
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("mps", dtype=autocast, enabled=autocast is not None))
        return run(what)
