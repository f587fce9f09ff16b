"""``torch.compile`` with its default backend: inductor generates Metal source for mps, which only Apple's compiler
takes, so a graph that touches mps runs as it was captured. ``backend="eager"`` and ``"aot_eager"`` are not involved.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

_warned = False


def wrap_inductor(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The call that hands a captured graph to inductor, diverted for graphs with mps in them."""

    def __call__(self: Any, model_: Any, inputs_: Any, *args: Any, **kwargs: Any) -> Any:
        if not touches_mps(model_, inputs_):
            _forget_mps_in_inductor()
            return stock(self, model_, inputs_, *args, **kwargs)
        _warn_once()
        return model_.forward

    return __call__


def touches_mps(graph: Any, inputs: Iterable[Any]) -> bool:
    """Whether any input, weight or intermediate of a captured graph is on mps."""
    weights = chain(graph.parameters(), graph.buffers()) if hasattr(graph, "parameters") else ()
    if any(map(_on_mps, chain(inputs, weights))):
        return True
    nodes = graph.graph.nodes if hasattr(graph, "graph") else ()
    return any(_on_mps(node.meta.get(key)) for node in nodes for key in ("example_value", "val"))


def _on_mps(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_on_mps, value))
    device = getattr(value, "device", None)
    return getattr(device, "type", None) == "mps"


def _forget_mps_in_inductor() -> None:
    """Leaves inductor with the GPU types it would know without us: no graph with mps in it gets there, and up to 2.13
    two types that are available at once (cuda and mps) fail an assertion in its get_gpu_type."""
    from torch._inductor import utils

    types = getattr(utils, "GPU_TYPES", None)
    if isinstance(types, list) and "mps" in types:
        types.remove("mps")
        getattr(utils.get_gpu_type, "cache_clear", lambda: None)()


def _warn_once() -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        "torch.compile: the inductor backend generates no code for this mps device, so what touches mps runs as "
        "captured, without fusion. Results are the same. torch.compile(..., backend='eager') does this silently.",
        stacklevel=2,
    )
