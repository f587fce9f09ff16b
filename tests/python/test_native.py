"""Ops and models on the kernels of a Vulkan device (Mesa's llvmpipe), with memory that the CPU shares and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vulkan import needs_llvmpipe

CASES = Path(__file__).with_name("native_cases.py")


@needs_llvmpipe
@pytest.mark.parametrize("mirror", ["0", "1"], ids=["shared memory", "memory of its own"])
@pytest.mark.parametrize(
    "part",
    [
        "pointwise", "reductions", "products", "shapes_and_places", "gradients", "images", "places", "random_numbers",
        "models", "threads",
    ],
)  # fmt: skip
def test_native(run_python, part, mirror):
    script = f"import runpy, sys; sys.argv = ['native_cases', {part!r}]; runpy.run_path({str(CASES)!r}, run_name='__main__')"
    done = run_python(script, env={"RIVULET_ADAPTER": "llvmpipe", "RIVULET_MIRROR": mirror, "LP_NUM_THREADS": "0"})
    assert done.stdout.strip().endswith("ok"), done.stdout
