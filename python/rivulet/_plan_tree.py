"""Arguments and outputs as flat lists: PyTorch's pytrees, and inside them dataclasses that nobody has registered."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Dataclass:
    """Takes the place of a dataclass leaf: its class, and the trees of its fields."""

    type: type
    fields: tuple[tuple[str, Tree], ...]


@dataclass(frozen=True)
class Tree:
    """The structure of a value. Equal trees take the same leaves."""

    spec: Any
    inner: tuple[Dataclass | None, ...]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The value with these leaves."""
        return self._build(iter(leaves))

    def _build(self, leaves: Any) -> Any:
        made = [next(leaves) if inner is None else _make(inner, leaves) for inner in self.inner]
        return pytree.tree_unflatten(made, self.spec)

    @property
    def count(self) -> int:
        """Number of leaves."""
        return sum(1 if inner is None else sum(tree.count for _, tree in inner.fields) for inner in self.inner)

    def __hash__(self) -> int:
        return hash((str(self.spec), self.inner))


def _make(inner: Dataclass, leaves: Any) -> Any:
    # Not through __init__: fields may be derived, and the class may check what it was checked for already.
    value = object.__new__(inner.type)
    for name, tree in inner.fields:
        object.__setattr__(value, name, tree._build(leaves))
    return value


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def flatten(value: Any) -> tuple[list[Any], Tree]:
    """The leaves of a value from left to right, and its structure."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves)


def _flatten(value: Any, leaves: list[Any]) -> Tree:
    found, spec = pytree.tree_flatten(value)
    inner: list[Dataclass | None] = []
    for leaf in found:
        if _is_dataclass(leaf):
            names = [field.name for field in dataclasses.fields(leaf)]
            fields = tuple((name, _flatten(getattr(leaf, name), leaves)) for name in names)
            inner.append(Dataclass(type(leaf), fields))
        else:
            leaves.append(leaf)
            inner.append(None)
    return Tree(spec, tuple(inner))


def to_json(tree: Tree) -> Any:
    """The tree as JSON, for files. Raises NotImplementedError where PyTorch has no name for a type in it."""
    return {
        "spec": json.loads(pytree.treespec_dumps(tree.spec)),
        "inner": [
            inner
            and {
                "class": f"{inner.type.__module__}:{inner.type.__qualname__}",
                "fields": [[name, to_json(field)] for name, field in inner.fields],
            }
            for inner in tree.inner
        ],
    }


def from_json(value: Any) -> Tree:
    """The tree of :func:`to_json`. Classes are looked up among the modules that are imported already: reading a file
    imports nothing.

    Raises:
        ValueError: where a class is not there, or the JSON is no tree.
    """
    inner = tuple(
        item and Dataclass(_find(item["class"]), tuple((str(name), from_json(field)) for name, field in item["fields"]))
        for item in value["inner"]
    )
    spec = pytree.treespec_loads(json.dumps(value["spec"]))
    if spec.num_leaves != len(inner):
        raise ValueError(f"a tree of {spec.num_leaves} leaves has {len(inner)} of them")
    return Tree(spec, inner)


def _find(name: str) -> type:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    if found is None:
        raise ValueError(f"the plan uses the class {path} of {module}: import that module first")
    for part in path.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"the plan uses the dataclass {path} of {module}, which is not there")
    return found
