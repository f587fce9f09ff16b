"""31 threads on software Vulkan get the bits of one: the workloads of `thread_rounds.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_vulkan import needs_llvmpipe

SCRIPT = Path(__file__).with_name("thread_rounds.py")


@needs_llvmpipe
@pytest.mark.parametrize(
    ("rounds", "each", "dtype", "mirror"),
    [
        (1, 2, "float32", "0"),
        # A minute a round on two cores; all 30 are run by hand (benchmarks/results).
        pytest.param(3, 7, "float32", "0", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param(1, 7, "float32", "1", marks=pytest.mark.slow),
        pytest.param(1, 7, "float16", "0", marks=pytest.mark.slow),
    ],
)
def test_31_threads_get_the_bits_of_one(run_python, rounds, each, dtype, mirror):
    arguments = ["thread_rounds", "--rounds", str(rounds), "--each", str(each), "--dtype", dtype]
    script = f"import runpy, sys; sys.argv = {arguments!r}; "
    script += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    env = {"RIVULET_ADAPTER": "llvmpipe", "RIVULET_MIRROR": mirror, "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"}
    done = run_python(script, env=env, timeout=900)
    assert done.stdout.strip().endswith("ok"), done.stdout
