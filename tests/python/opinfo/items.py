"""Which checks there are: every entry of both databases under every task that applies to it."""

from __future__ import annotations

import fnmatch
import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

# The dtypes that every entry is held to, and the rest of what mps has beside other backends.
MAIN_DTYPES = ("float32", "float16", "bfloat16", "int64", "bool")
MORE_DTYPES = ("float64", "complex64", "complex128", "int32", "int16", "int8", "uint8")
VARIANT_DTYPES = ("float32", "int64")
EXPECTED_FAILURES = Path(__file__).with_name("expected_failures.json")


@dataclass(frozen=True)
class Item:
    """One line of the result table. `index` is the entry's place in its database."""

    database: str
    index: int
    entry: str
    task: str

    @property
    def name(self) -> str:
        return f"{self.entry}/{self.task}"

    def shard(self, count: int) -> int:
        # By name, so that an entry stays in its shard when PyTorch adds others.
        return zlib.crc32(self.entry.encode()) % count


@lru_cache(maxsize=1)
def databases() -> dict[str, list[Any]]:
    from torch.testing._internal import common_methods_invocations
    from torch.testing._internal.common_modules import module_db

    # Random entries come with one seed wound around each call, which would hide that they are random.
    common_methods_invocations.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)
    return {"op": common_methods_invocations.op_db, "module": module_db}


def op_tasks(op: Any) -> list[str]:
    dtypes = {str(dtype).removeprefix("torch.") for dtype in op.supported_dtypes("cpu")}
    tasks = [f"forward:{dtype}" for dtype in (*MAIN_DTYPES, *MORE_DTYPES) if dtype in dtypes]
    tasks += [f"variants:{dtype}" for dtype in VARIANT_DTYPES if dtype in dtypes]
    differentiable = {str(dtype) for dtype in op.supported_backward_dtypes("cpu")}
    if op.supports_autograd and "torch.float32" in differentiable:
        tasks.append("gradients")
        # In double precision: sums of large terms that cancel come in another order on mps (see checks.packed).
        if op.supports_gradgrad and "torch.float64" in differentiable:
            tasks.append("second_derivatives:float64")
        if op.supports_forward_ad:
            tasks.append("forward_derivatives")
    if op.error_inputs_func is not None:
        tasks.append("errors")
    return tasks


def module_tasks(info: Any) -> list[str]:
    dtypes = {str(dtype).removeprefix("torch.") for dtype in info.dtypes}
    # The database names few modules for the small types, though most work in them; where one does not, mps must
    # refuse it as the CPU does.
    if "float32" in dtypes:
        dtypes |= {"float16", "bfloat16"}
    return [
        f"module:{dtype}:{mode}"
        for dtype in ("float32", "float16", "bfloat16", "float64", "complex64")
        for mode in ("train", "eval")
        if dtype in dtypes
    ]


def all_items() -> list[Item]:
    found = []
    for index, op in enumerate(databases()["op"]):
        entry = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
        found += [Item("op", index, entry, task) for task in op_tasks(op)]
    for index, info in enumerate(databases()["module"]):
        found += [Item("module", index, info.name, task) for task in module_tasks(info)]
    return found


def select(shard: str = "all", pattern: str = "*", tasks: str = "*") -> list[Item]:
    """`shard` is "all" or "i/n" with 0 <= i < n; `pattern` and `tasks` are comma-separated shell patterns."""
    chosen = all_items()
    if shard != "all":
        index, count = parse_shard(shard)
        chosen = [item for item in chosen if item.shard(count) == index]
    matches = lambda text, patterns: any(fnmatch.fnmatchcase(text, p) for p in patterns.split(","))  # noqa: E731
    return [item for item in chosen if matches(item.entry, pattern) and matches(item.task, tasks)]


def parse_shard(shard: str) -> tuple[int, int]:
    try:
        index, count = (int(part) for part in shard.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 0 <= index < count:
        raise ValueError(f'shard {shard!r}: allowed are "all" and "i/n" with 0 <= i < n, for example "3/10"')
    return index, count


@lru_cache(maxsize=1)
def expected_failures() -> list[dict[str, Any]]:
    return json.loads(EXPECTED_FAILURES.read_text(encoding="utf-8"))["entries"]


def expected_reason(item: Item) -> str | None:
    """Why this item is known to fail on the PyTorch in use, or None."""
    version = ".".join(torch.__version__.split(".")[:2])
    for known in expected_failures():
        if (
            fnmatch.fnmatchcase(item.entry, known["entry"])
            and any(fnmatch.fnmatchcase(item.task, task) for task in known["tasks"])
            and version in known.get("torch", [version])
        ):
            return known["reason"]
    return None


def status(item: Item, result: dict[str, Any]) -> str:
    """What became of an item, in one word or two; "unexpected pass" and "fail" are for somebody to look at."""
    expected = expected_reason(item) is not None
    if result["passed"] < result["samples"]:
        return "expected failure" if expected else "fail"
    if expected:
        return "unexpected pass"
    if not result["samples"]:
        return "no samples"
    return "not on cpu" if result["raised_alike"] == result["samples"] else "pass"


BAD = {"fail", "unexpected pass"}


def run_item(item: Item) -> dict[str, Any]:
    """Runs it in this process. The result is plain data."""
    import rivulet

    from . import checks, modules

    rivulet.reset_fallback_counts()
    entry = databases()[item.database][item.index]
    tally = checks.Tally()
    task, *rest = item.task.split(":")
    try:
        if task == "module":
            modules.run(entry, getattr(torch, rest[0]), rest[1] == "train", tally)
        elif task == "errors":
            checks.errors(entry, tally)
        else:
            dtype = getattr(torch, rest[0]) if rest else torch.float32
            getattr(checks, task)(entry, dtype, tally)
    except Exception as error:
        tally.samples += 1
        tally.errors.append(f"no further samples: {type(error).__name__}: {error}"[:600])
    fell_back = rivulet.fallback_counts()
    return {
        "samples": tally.samples,
        "passed": tally.passed,
        "exact": tally.exact,
        "random": tally.random,
        "raised_alike": tally.raised_alike,
        "by_rule": tally.by_rule,
        "fallbacks": sum(fell_back.values()),
        "fell_back": sorted(fell_back),
        "errors": tally.errors,
    }
