"""A part of the database on the kernels of a Vulkan device (Mesa's llvmpipe), values, variants and gradients in float32.

The device's memory is one of its own (RIVULET_MIRROR=1), so that code which touches a tensor's bytes beside the kernels
finds other ones.

RIVULET_OPINFO_VULKAN_SHARD names the part ("i/n" or "all"); without it a small fixed one runs. What the newest recorded
sweep has as native may not fall back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from test_vulkan import needs_llvmpipe

from . import items, recorded, verdict
from .pool import Pool

TASKS = "forward:float32,variants:float32,gradients"
ITEMS = items.select(os.environ.get("RIVULET_OPINFO_VULKAN_SHARD", "17/100"), tasks=TASKS)
NAME, SWEEP = recorded.sweep()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    workers = int(os.environ.get("RIVULET_OPINFO_WORKERS", os.cpu_count() or 1))
    running = Pool(ITEMS, workers, {"RIVULET_ADAPTER": "llvmpipe", "RIVULET_MIRROR": "1", "LP_NUM_THREADS": "0"})
    yield running
    running.close()


@needs_llvmpipe
@pytest.mark.timeout(0)
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_kernels_do_what_the_cpu_does(pool: Pool, item: items.Item) -> None:
    result = pool.result(item)
    verdict.check(item, result)
    if recorded.is_of_this_torch(SWEEP):
        what = recorded.lost(NAME, SWEEP, item, result)
        assert what is None, what


def test_the_recorded_sweep_has_no_failure_and_every_item() -> None:
    if not recorded.is_of_this_torch(SWEEP):
        pytest.skip(f"{NAME} is of PyTorch {SWEEP['versions']['torch']}")
    assert "llvmpipe" in SWEEP["adapter"]["name"]
    rows = SWEEP["entries"]
    missing = [item.name for item in items.select(tasks=TASKS) if item.task not in rows.get(item.entry, {})]
    assert not missing
    for task, states in SWEEP["summary"].items():
        assert not items.BAD & set(states), (task, states)
    assert len(recorded.natives(SWEEP, "forward:float32")) >= 300


def test_a_native_entry_that_falls_back_is_found() -> None:
    native = recorded.natives(SWEEP, "gradients")[0]
    result = {"fallbacks": 2, "fell_back": ["aten::this", "aten::that"]}

    def lost(entry: str, **changed: object) -> str | None:
        return recorded.lost(NAME, SWEEP, items.Item("op", 0, entry, "gradients"), {**result, **changed})

    assert lost(native) == f"aten::this, aten::that fell back to the CPU; {NAME} has {native}/gradients as native"
    assert lost(native, fallbacks=0, fell_back=[]) is None
    assert lost(next(iter(SWEEP["places, gradients"]["fell_back"]))) is None
