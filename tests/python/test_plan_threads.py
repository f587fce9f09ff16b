"""Into how many threads the CPU kernels of a plan's calls split themselves."""

from __future__ import annotations

import os
import textwrap

import pytest
from plan_support import HOST

pytestmark = pytest.mark.skipif(not HOST, reason="CPU kernels run plans on the host adapter alone")

# An op whose CPU kernel is Python sees what PyTorch's kernels would see inside a call.
SETUP = textwrap.dedent("""
    import ctypes, os, threading, time
    import rivulet, torch

    mkl = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    mkl_threads = getattr(mkl, "MKL_Get_Max_Threads", torch.get_num_threads)
    seen = []
    inside = lambda threads: None

    @torch.library.custom_op("plan_threads::look", mutates_args=())
    def look(x: torch.Tensor) -> torch.Tensor:
        threads = torch.get_num_threads()
        seen.append((threads, mkl_threads()))
        inside(threads)
        return x.clone()

    @look.register_fake
    def _(x):
        return torch.empty_like(x)

    cores = len(os.sched_getaffinity(0))
    x = torch.ones(4, device="mps")
    plan = rivulet.capture(look, x)

    def last():
        plan(x)
        return seen[-1]
""")

SEVERAL = "inside = lambda threads: time.sleep(0.008 if threads == 1 else 0.001)\n"
ONE = "inside = lambda threads: time.sleep(0.001 if threads == 1 else 0.008)\n"
WARM = "for _ in range(24): plan(x)\n"


@pytest.fixture
def in_plan(run_python):
    """Runs a program after the setup; skipped where there is one core, and so nothing to share out."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")

    def run(program, **env):
        forget = "import os\nfor name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.pop(name, None)\n"
        return run_python(("" if env else forget) + SETUP + program, env=env)

    return run


def test_a_tape_that_gains_by_threads_gets_the_cores(in_plan):
    in_plan(
        SEVERAL
        + WARM
        + """
default = torch.get_num_threads()
assert last() == (default,) * 2 and default > 1, seen
# Without a call's own number it would be the same: one thread was tried, and found to be slower.
assert seen.count((1, 1)) == 8, seen
one, several = plan.stats()["shapes"][0]["threads_seconds"]
assert one > several >= 0.001, (one, several)
"""
    )


def test_a_tape_that_gains_nothing_runs_on_one_thread_and_says_so(in_plan):
    in_plan(
        ONE
        + WARM
        + """
assert last() == (1, 1), seen
assert "on one thread" in plan.explain(), plan.explain()
one, several = plan.stats()["shapes"][0]["threads_seconds"]
assert 0.001 <= one < several, (one, several)
"""
    )


def test_a_number_of_the_whole_process_that_equals_the_default_does_not_stay_in_the_products_library(in_plan):
    in_plan("torch.set_num_threads(torch.get_num_threads())\n" + ONE + WARM + "assert last() == (1, 1), seen\n")


def test_what_the_thread_had_before_is_back_after_a_call(in_plan):
    in_plan(
        """
before = torch.get_num_threads(), mkl_threads()
"""
        + ONE
        + WARM
        + "assert last() == (1, 1) and (torch.get_num_threads(), mkl_threads()) == before\n"
    )


def test_a_number_that_the_user_chose_stays(in_plan):
    in_plan("torch.set_num_threads(cores + 3)\n" + ONE + WARM + "assert last() == (cores + 3,) * 2, seen\n")


def test_a_number_of_the_environment_stays(in_plan):
    in_plan(ONE + WARM + "assert last()[0] == torch.get_num_threads() > 1, seen\n", OMP_NUM_THREADS="2")


def test_calls_at_once_share_the_cores_and_one_that_is_alone_has_them_again(in_plan):
    in_plan(
        SEVERAL
        + WARM
        + """
assert last()[0] > 1
count = cores // 2 + 1
together = threading.Barrier(count)
inside = lambda threads: together.wait(30)

def body():
    for _ in range(4):
        plan(x)

threads = [threading.Thread(target=body) for _ in range(count)]
seen.clear()
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(seen) == 4 * count
# The first of a round may begin when fewer are there.
assert all(one == (1, 1) for one in seen[2 * count:]), seen
inside = lambda threads: None
for _ in range(17): plan(x)
assert last()[0] == torch.get_num_threads() > 1, seen[-20:]
"""
    )


def test_threads_that_take_turns_have_all_cores_each(in_plan):
    in_plan(
        SEVERAL
        + WARM
        + """
for _ in range(8):
    thread = threading.Thread(target=last)
    thread.start()
    thread.join()
assert all(threads == torch.get_num_threads() for threads, _ in seen[-8:]), seen[-8:]
"""
    )
