"""The shard of PyTorch's own databases that RIVULET_OPINFO_SHARD names ("i/n" or "all"), one test an item.

Without that variable a small fixed shard runs. RIVULET_OPINFO_TASKS narrows it to some tasks (shell patterns). Each
test waits for its item of one shared pool of worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import items, verdict
from .pool import Pool

SHARD = os.environ.get("RIVULET_OPINFO_SHARD", "17/100")
ITEMS = items.select(SHARD, tasks=os.environ.get("RIVULET_OPINFO_TASKS", "*"))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    workers = int(os.environ.get("RIVULET_OPINFO_WORKERS", os.cpu_count() or 1))
    running = Pool(ITEMS, workers)
    yield running
    running.close()


# An item waits for the ones queued before it, so there is no limit of its own here; the pool has one.
@pytest.mark.timeout(0)
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_mps_does_what_the_cpu_does(pool: Pool, item: items.Item) -> None:
    verdict.check(item, pool.result(item))
