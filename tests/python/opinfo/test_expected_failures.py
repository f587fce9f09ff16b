"""The list of known failures stays short, explained, and about entries that exist."""

from __future__ import annotations

from . import items

# What people run models with; none of these may be on the list.
INFERENCE = {
    "add", "addmm", "argmax", "baddbmm", "bmm", "cat", "clamp", "cumsum", "div", "exp", "gather", "index_select",
    "matmul", "mean", "mm", "mul", "multinomial", "nn.functional.batch_norm", "nn.functional.conv2d",
    "nn.functional.embedding", "nn.functional.gelu", "nn.functional.interpolate", "nn.functional.layer_norm",
    "nn.functional.linear", "nn.functional.relu", "nn.functional.scaled_dot_product_attention", "nn.functional.silu",
    "softmax", "sort", "sum", "topk", "where",
}  # fmt: skip


def named(pattern: str) -> set[str]:
    return {item.entry for item in items.select(pattern=pattern)}


def test_the_list_is_short() -> None:
    listed = {entry for known in items.expected_failures() for entry in named(known["entry"])}
    assert len({entry for entry in listed if not entry.startswith("jiterator")}) <= 12


def test_each_line_has_a_reason_and_names_entries_that_exist() -> None:
    for known in items.expected_failures():
        assert set(known) <= {"entry", "tasks", "torch", "reason"}, known
        assert len(known["reason"]) > 20, known
        assert named(known["entry"]), f"no entry is called {known['entry']}"
        assert known["tasks"] and all(items.select(pattern=known["entry"], tasks=task) for task in known["tasks"]), known


def test_no_ordinary_inference_op_is_listed() -> None:
    every = {item.entry for item in items.all_items()}
    listed = {entry for known in items.expected_failures() for entry in named(known["entry"])}
    for name in INFERENCE:
        mine = {entry for entry in every if entry == name or entry.startswith(f"{name}.")}
        assert mine, f"no entry is called {name}"
        assert not mine & listed
