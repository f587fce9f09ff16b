"""Ops beside the CPU, as tables that the selftest and the project's own tests share.

A table is a function that is handed a :class:`~.table.Table` and calls it once for each case. Operands come from the CPU's
generator, so that :func:`collect` gives the same cases for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import gradients, images, models, places, pointwise, products, reductions, shapes
from .table import Case, Table

#: The tables by name.
TABLES: dict[str, Callable[[Table], None]] = {
    "pointwise": pointwise.pointwise,
    "reductions": reductions.reductions,
    "products": products.products,
    "shapes_and_places": shapes.shapes_and_places,
    "gradients": gradients.gradients,
    "images": images.images,
    "places": places.places,
    "random_numbers": models.random_numbers,
    "models": models.models,
}

__all__ = ["TABLES", "Case", "Table", "collect"]


def collect(name: str, seed: int = 0) -> list[Case]:
    """The cases of one table."""
    table = Table()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        TABLES[name](table)
    return table.cases
