"""``torch.compile`` on mps: a captured graph becomes a plan.

Inductor, the default backend, generates Metal source for mps, which only Apple's compiler takes; so what it would get
with mps in it goes to :func:`backend`, which is also there by name, ``torch.compile(model, backend="rivulet")``. Other
backends are not involved.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from ._import_hook import when_imported

NAME = "rivulet"
_REGISTRY = "torch._dynamo.backends.registry"

_warned = False


def backend(graph: Any, inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
    """A backend of ``torch.compile``: the graph's first call without gradients notes a plan, later ones run it. With
    gradients, and where the graph cannot become a plan, it runs as it was captured."""
    # Here, not above: PyTorch's import is not to wait for it.
    from ._plan import Plan

    run_graph = graph.forward
    plan = Plan(run_graph, "a compiled graph", dynamic_batch=False, max_shapes=16)
    refused = False

    def run(*args: Any) -> Any:
        nonlocal refused
        import torch

        if refused or (
            torch.is_grad_enabled() and any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args)
        ):
            return run_graph(*args)
        try:
            return plan(*args)
        except _plan_error() as error:
            refused = True
            _warn_once(error)
            return run_graph(*args)

    return run


def _plan_error() -> type[Exception]:
    from ._plan_tape import PlanError

    return PlanError


def wrap_inductor(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The call that hands a captured graph to inductor, diverted for graphs with mps in them."""

    def __call__(self: Any, model_: Any, inputs_: Any, *args: Any, **kwargs: Any) -> Any:
        if not touches_mps(model_, inputs_):
            _forget_mps_in_inductor()
            return stock(self, model_, inputs_, *args, **kwargs)
        return backend(model_, inputs_)

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


def _warn_once(error: Exception) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"torch.compile: a graph with mps in it runs as captured, because it cannot become a plan: {error}",
        stacklevel=3,
    )


# --- the name -------------------------------------------------------------------------------------------------


def register(registry: types.ModuleType) -> bool:
    """Puts the backend into PyTorch's table; False where it is there."""
    if NAME in getattr(registry, "_COMPILER_FNS", {}):
        return False
    registry.register_backend(backend, name=NAME)
    return True


def watch() -> bool:
    """Registers the backend now where PyTorch's compiler is imported already, which takes seconds, and otherwise when it
    is. False where that was arranged before."""
    return when_imported(_REGISTRY, register)
