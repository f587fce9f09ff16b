"""What an item's result is to pytest."""

from __future__ import annotations

from typing import Any

import pytest

from . import items


def check(item: items.Item, result: dict[str, Any]) -> None:
    """Skips, fails or marks the calling test; returns where the item passes."""
    verdict = items.status(item, result)
    if verdict == "no samples":
        pytest.skip("the database has no samples for it")
    if verdict == "expected failure":
        pytest.xfail(items.expected_reason(item) or "")
    if verdict == "unexpected pass":
        pytest.fail(f"passes, but expected_failures.json lists it: {items.expected_reason(item)}")
    assert verdict != "fail", f"{result['passed']} of {result['samples']} samples\n" + "\n".join(result["errors"])
