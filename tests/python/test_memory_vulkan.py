"""Memory on software Vulkan: it levels off under varying shapes, and ten thousand forwards leave nothing behind."""

from __future__ import annotations

import gc
import threading
import time

import pytest
import torch
from test_vulkan import needs_llvmpipe
from threads_support import fresh_process, resident_bytes, run_threads

from rivulet.selftest.parts.memory import Small, need_of, sizes, step

pytestmark = needs_llvmpipe
MIB = 1 << 20


def reproduce(body, *args, mirror="0", timeout=280):
    env = {"OMP_NUM_THREADS": "1", "RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "RIVULET_MIRROR": mirror}
    fresh_process(body, *args, env=env, timeout=timeout)


def varying_shapes(threads, rounds):
    """pytorch#132596: driver memory stays within 1.3 times what the threads need when all take their largest step."""
    torch.manual_seed(0)
    model = Small().eval().to("mps")

    def sweep(index):
        for batch, length in sizes(index, rounds):
            step(model, batch, length)
        torch.mps.current_stream().synchronize()

    need = need_of(model)
    torch.mps.empty_cache()
    base = torch.mps.driver_allocated_memory()
    peaks = []
    over = threading.Event()

    def watch():
        while not over.is_set():
            peaks[-1] = max(peaks[-1], torch.mps.driver_allocated_memory())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    peaks.append(0)
    watcher.start()
    for _ in range(3):
        peaks.append(0)
        run_threads(threads, sweep)
    over.set()
    watcher.join()
    bound = base + threads * 1.3 * need
    assert max(peaks) <= bound, (need, base, peaks, bound)
    assert torch.mps.current_allocated_memory() < MIB
    torch.mps.empty_cache()
    assert torch.mps.driver_allocated_memory() <= base + 4 * MIB


@pytest.mark.parametrize(("threads", "mirror"), [(1, "0"), (8, "0"), pytest.param(8, "1", marks=pytest.mark.slow)])
def test_driver_memory_levels_off_under_varying_batches_and_lengths(threads, mirror):
    reproduce(varying_shapes, threads, 8, mirror=mirror)


def forwards(count, wait_every):
    """Forwards of a tiny model, whose first tenth may fill caches."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.LayerNorm(8)).eval().to("mps")
    x = torch.randn(4, 8)

    def run(times):
        with torch.no_grad():
            for number in range(times):
                y = model(x.to("mps"))
                if wait_every and number % wait_every == 0:
                    torch.mps.synchronize()
        return y.cpu()

    def figures():
        torch.mps.synchronize()
        gc.collect()
        return torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory(), resident_bytes()

    first = run(count // 10)
    before = figures()
    assert torch.equal(run(count), first)
    after = figures()
    assert after[:2] == before[:2], (before, after)
    assert after[2] <= before[2] + 4 * MIB, (before, after)


@pytest.mark.parametrize("wait_every", [0, 1], ids=["never waiting", "waiting each time"])
def test_ten_thousand_forwards_leave_nothing_behind(wait_every):
    reproduce(forwards, 10_000, wait_every)


def far_ahead():
    """A thread that records faster than the device works, and never waits."""
    x, y = torch.zeros(1 << 12, device="mps"), torch.ones(1 << 12, device="mps")

    def run(times):
        for _ in range(times):
            x.add_(y)
        return resident_bytes()

    # A thread waits for the device once 256 submissions of 64 ops are unfinished: not before is the memory all in use.
    before = run(40_000)
    after = run(80_000)
    assert after <= before + 8 * MIB, (before, after)
    assert (x.cpu() == 120_000).all()


def test_work_recorded_far_ahead_of_the_device_takes_bounded_memory():
    reproduce(far_ahead)
