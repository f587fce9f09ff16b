"""A clear error from the device that has no autograd.

PyTorch's engine orders the streams of one accelerator only. Beside a live CUDA device with ``RIVULET_ACCELERATOR=mps``
a backward on cuda ends in an internal assertion; the other way round the mps kernels refuse by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ASSERTION = "opt_ready_stream && opt_parent_stream"


def explain_assertion(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the engine's entry; everything but that assertion passes through."""

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        try:
            return stock(*args, **kwargs)
        except RuntimeError as error:
            if _ASSERTION not in str(error):
                raise
            raise RuntimeError(
                "cuda has no autograd in this process, because mps is its accelerator. Set RIVULET_ACCELERATOR=cuda "
                "before `import torch`, or run backward on mps"
            ) from error

    return run_backward
