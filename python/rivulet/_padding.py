"""Calls whose sequences differ in length: padded to the longest, with a mask, and cut back.

The length of a call is dim 1 of its first tensor that has one; every other tensor of that size in dim 1 is padded too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from ._joining import Request

Tensor = torch.Tensor


class Padding:
    """How a model's calls are made equally long. Any thread.

    Args:
        model: the model; its signature tells the names of positional arguments.
        value: what is put behind the shorter ones: a number, or numbers by the names of arguments (0 for the others).
        mask: name of the argument that holds 1 where there is input and 0 where there is none, [rows, length], of
            integers or bools. A call may leave it out. None, or a name that the model does not take: no mask.
    """

    def __init__(self, model: Callable[..., Any], value: float | dict[str, float], mask: str | None) -> None:
        self._values = value if isinstance(value, dict) else {}
        self._value = 0 if isinstance(value, dict) else value
        self._positions, takes_any = _parameters(model)
        self._mask = mask if mask in self._positions or takes_any else None

    def prepare(self, request: Request, parts: list[Any]) -> None:
        """Sets a request's leaves, their length and its mask, and adds what must be equal in a batch."""
        args, kwargs = list(request.args), dict(sorted(request.kwargs.items()))
        mask = self._take_mask(args, kwargs)
        request.leaves, request.spec = pytree.tree_flatten((args, kwargs))
        sizes = [x.shape[1] if isinstance(x, Tensor) and x.dim() >= 2 else None for x in request.leaves]
        request.length = next((size for size in sizes if size is not None), None)
        request.long = [size is not None and size == request.length for size in sizes]
        if mask is not None:
            first = next((x for x in request.leaves if isinstance(x, Tensor)), None)
            wanted = None if first is None or not first.dim() else [first.shape[0], request.length]
            if mask.is_floating_point() or list(mask.shape) != wanted:
                raise ValueError(
                    f"{self._mask} is a {str(mask.dtype)[6:]} tensor of shape {list(mask.shape)}; with pad='longest' "
                    f"it must be of integers or bools, 1 where there is input, of shape {wanted}"
                )
        request.mask = mask
        # A mask that is left out is made where it is needed, so it makes no difference.
        parts += [request.spec, torch.int64 if mask is None else mask.dtype]

    def _take_mask(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The mask of a call, None in its place."""
        name = self._mask
        if name is None:
            return None
        place = self._positions.get(name)
        if place is not None and place < len(args):
            mask, args[place] = args[place], None
            return mask
        return kwargs.pop(name, None)

    def join(self, requests: Sequence[Request]) -> tuple[list[Any], dict[str, Any], list[int] | None]:
        """The arguments of a joined run, and the members' lengths where they differ."""
        first = requests[0]
        lengths = [request.length or 0 for request in requests]
        longest = max(lengths)
        values = self._values_of_leaves(first)
        leaves = []
        for index, x in enumerate(first.leaves):
            if not isinstance(x, Tensor) or not x.dim():
                leaves.append(x)
                continue
            rows = [request.leaves[index] for request in requests]
            if first.long[index]:
                rows = [_longer(x, longest, values[index]) for x in rows]
            leaves.append(torch.cat(rows))
        args, kwargs = pytree.tree_unflatten(leaves, first.spec)
        differ = min(lengths) < longest
        if self._mask is not None and (differ or any(request.mask is not None for request in requests)):
            mask = torch.cat([_longer(_mask_of(request), longest, 0) for request in requests])
            place = self._positions.get(self._mask)
            if place is not None and place < len(args):
                args[place] = mask
            else:
                kwargs[self._mask] = mask
        return args, kwargs, lengths if differ else None

    def _values_of_leaves(self, request: Request) -> list[float]:
        if not self._values:
            return [self._value] * len(request.leaves)
        names = {place: name for name, place in self._positions.items() if place is not None}
        args, kwargs = pytree.tree_unflatten(request.leaves, request.spec)
        named = [(names.get(place), value) for place, value in enumerate(args)]
        values: list[float] = []
        for name, value in [*named, *kwargs.items()]:
            values += [self._values.get(name or "", self._value)] * len(pytree.tree_leaves(value))
        return values


def _parameters(model: Callable[..., Any]) -> tuple[dict[str, int | None], bool]:
    """Names of a model's parameters with their positions (None: by keyword only), and whether it takes any keyword."""
    try:
        signature = inspect.signature(model.forward if isinstance(model, torch.nn.Module) else model)
    except (TypeError, ValueError):
        return {}, False
    kinds = inspect.Parameter
    positions: dict[str, int | None] = {}
    for place, (name, parameter) in enumerate(signature.parameters.items()):
        if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
            positions[name] = place
        elif parameter.kind == kinds.KEYWORD_ONLY:
            positions[name] = None
    return positions, any(p.kind == kinds.VAR_KEYWORD for p in signature.parameters.values())


def _longer(x: Tensor, length: int, value: float) -> Tensor:
    missing = length - x.shape[1]
    if not missing:
        return x
    # From the last dimension to dim 1, of which only the end grows.
    return torch.nn.functional.pad(x, [0, 0] * (x.dim() - 2) + [0, missing], value=value)


def _mask_of(request: Request) -> Tensor:
    if request.mask is not None:
        mask: Tensor = request.mask
        return mask
    device = next(x.device for x in request.leaves if isinstance(x, Tensor))
    return torch.ones(request.rows, request.length or 0, dtype=torch.int64, device=device)
