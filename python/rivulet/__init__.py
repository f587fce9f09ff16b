"""PyTorch's ``mps`` device, thread-parallel, on stock PyTorch.

Nothing has to be imported to use it: ``import torch`` loads Rivulet through the ``torch.backends`` entry point, and
from then on ``torch.device("mps")`` works, on every thread at once, each thread on a stream of its own. This module
holds what PyTorch has no name for:

======================================  =============================================================
:func:`adapters`, :func:`adapter`       the devices that can be used, and the one that is
:func:`fallback_counts`                 ops that ran on the CPU path of a GPU adapter, with counts
:func:`reset_fallback_counts`           sets those counts back to nothing
:class:`Batcher`                        calls of one model from many threads, joined and run as one
:func:`doctor`                          a report on all of it; also ``python -m rivulet doctor``
:func:`load`                            loads Rivulet by hand where the entry point is switched off
:func:`capture`                         a model as one call: a :class:`Plan`
:func:`load_plan`                       a plan from a file
======================================  =============================================================

Where to read on: ``_load`` finds and registers the library, ``_native`` is the C interface, ``_patch`` lists every
place of PyTorch that is changed and why, ``_streams`` and ``_events`` are ``torch.mps.Stream`` and ``torch.mps.Event``.

Importing this module imports neither PyTorch nor the native library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._adapters import Adapter, adapter, adapters, fallback_counts, reset_fallback_counts
    from ._batcher import Batcher
    from ._doctor import Report, doctor
    from ._load import load
    from ._plan import Plan, capture, load_plan
    from ._plan_file import PlanFileError
    from ._plan_tape import PlanError

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "Batcher",
    "Plan",
    "PlanError",
    "PlanFileError",
    "Report",
    "__version__",
    "adapter",
    "adapters",
    "capture",
    "doctor",
    "fallback_counts",
    "load",
    "load_plan",
    "reset_fallback_counts",
]

_HOME = {
    "Adapter": "_adapters",
    "adapter": "_adapters",
    "adapters": "_adapters",
    "Batcher": "_batcher",
    "fallback_counts": "_adapters",
    "reset_fallback_counts": "_adapters",
    "Report": "_doctor",
    "doctor": "_doctor",
    "load": "_load",
    "Plan": "_plan",
    "PlanError": "_plan_tape",
    "PlanFileError": "_plan_file",
    "capture": "_plan",
    "load_plan": "_plan",
}

#: Modules that PyTorch's own import reads, by the entry point: it has to be done before theirs begins.
_AFTER_TORCH = {"_batcher", "_plan", "_plan_file", "_plan_tape"}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'rivulet' has no attribute {name!r}")
    if home in _AFTER_TORCH:
        importlib.import_module("torch")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _autoload() -> None:
    """Entry point of ``torch.backends``, called at the end of ``import torch``. Never raises, prints nothing."""
    try:
        from ._load import autoload
    except Exception:
        # A broken installation must not break `import torch`; the doctor meets the same error and shows it.
        return
    autoload()
