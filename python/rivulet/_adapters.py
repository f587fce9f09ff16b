"""The devices that can be used, and what ran beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from . import _load


@dataclass(frozen=True)
class Adapter(Mapping[str, Any]):
    """One device that the engine can drive. Reads like a mapping as well: ``adapter["name"]``, ``dict(adapter)``.

    Sizes are in bytes. Fields that this version does not know are in :attr:`extra` and in the mapping.
    """

    name: str = ""
    backend: str = ""
    """Driver family: "host", "vulkan" or "metal"."""
    driver: str = ""
    queues: int = 0
    """Hardware queues that the engine uses, which may be fewer than the driver offers."""
    unified_memory: bool = False
    """True where CPU and device read the same bytes, so that ``.cpu()`` needs no transfer."""
    inline_completion: bool = False
    """True where work is complete as soon as it is submitted (the host adapter)."""
    memory_bytes: int = 0
    max_allocation: int = 0
    max_binding: int = 0
    float64: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Adapter:
        """From one entry of the library's report."""
        known = {f.name for f in fields(cls)} - {"extra"}
        return cls(
            **{key: value for key, value in entry.items() if key in known},
            extra={key: value for key, value in entry.items() if key not in known},
        )

    def _as_dict(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return {**own, **self.extra}

    def __getitem__(self, key: str) -> Any:
        return self._as_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._as_dict())

    def __len__(self) -> int:
        return len(self._as_dict())


def adapters() -> list[Adapter]:
    """Every adapter of this machine. Opens none of them for work.

    Raises:
        RuntimeError: with the reason where Rivulet is not available.
    """
    return [Adapter.from_json(entry) for entry in _load.native().adapters()]


def adapter() -> Adapter:
    """The adapter that ``mps`` runs on, or will once it is used.

    Raises:
        RuntimeError: with the reason where Rivulet is not available or finds no adapter.
    """
    return Adapter.from_json(_load.native().adapter())


def fallback_counts() -> dict[str, int]:
    """Calls that ran on the CPU path of a GPU adapter since start or reset, by op overload name such as
    ``aten::add.Tensor``. Empty on the host adapter, where the CPU path is the normal one.

    Raises:
        RuntimeError: with the reason where Rivulet is not available.
    """
    return _load.native().fallback_counts()


def reset_fallback_counts() -> None:
    """Sets the counts of :func:`fallback_counts` back to nothing.

    Raises:
        RuntimeError: with the reason where Rivulet is not available.
    """
    _load.native().fallback_reset()
