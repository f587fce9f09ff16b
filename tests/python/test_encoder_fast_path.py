"""torch.nn's transformer modules take PyTorch's one-op way on mps, and give what their ordinary way gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vulkan import needs_llvmpipe

CASES = Path(__file__).with_name("fast_path_cases.py")


@pytest.mark.parametrize("adapter", ["host", pytest.param("llvmpipe", marks=needs_llvmpipe)])
@pytest.mark.parametrize("part", ["layers", "attentions", "not_taken", "threads"])
def test_fast_path(run_python, adapter, part):
    script = f"import runpy, sys; sys.argv = ['cases', {part!r}]; runpy.run_path({str(CASES)!r}, run_name='__main__')"
    done = run_python(script, env={"RIVULET_ADAPTER": adapter, "LP_NUM_THREADS": "0"}, timeout=300)
    assert done.stdout.strip().endswith("ok"), done.stdout
