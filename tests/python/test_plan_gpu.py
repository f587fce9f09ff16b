"""The same plans on kernels: Mesa's llvmpipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rivulet

LLVMPIPE = any("llvmpipe" in adapter.name for adapter in rivulet.adapters())


@pytest.mark.parametrize("name", ["test_plan", "test_plan_batch", "test_plan_files"])
@pytest.mark.skipif(
    not LLVMPIPE and os.environ.get("RIVULET_REQUIRE_VULKAN") != "1", reason="no llvmpipe (mesa-vulkan-drivers)"
)
@pytest.mark.timeout(600)
def test_plans_on_llvmpipe(run_python, name):
    script = f"import sys, pytest; sys.exit(pytest.main([{str(Path(__file__).with_name(name + '.py'))!r}, '-x', '-q']))"
    done = run_python(
        script, env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"}, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
