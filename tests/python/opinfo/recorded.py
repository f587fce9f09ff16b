"""The newest recorded sweep on llvmpipe, which later runs are held to: what ran natively there may not fall back."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .items import Item

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"


@lru_cache(maxsize=1)
def sweep() -> tuple[str, dict[str, Any]]:
    """Name and content of the file."""
    path = max(RESULTS.glob("opinfo-llvmpipe-*.json"))
    return path.name, json.loads(path.read_text(encoding="utf-8"))


def is_of_this_torch(table: dict[str, Any]) -> bool:
    """Entries and what they are made of change from one PyTorch to the next."""
    return table["versions"]["torch"].split(".")[:2] == torch.__version__.split(".")[:2]


def natives(table: dict[str, Any], task: str) -> list[str]:
    return table[f"places, {task}"]["native"]


def lost(name: str, table: dict[str, Any], item: Item, result: dict[str, Any]) -> str | None:
    """What an item that was native has fallen back for, in a sentence, or None."""
    if result["fallbacks"] and item.entry in natives(table, item.task):
        return f"{', '.join(result['fell_back'])} fell back to the CPU; {name} has {item.name} as native"
    return None
