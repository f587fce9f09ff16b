"""The rules of single entries let pass what they are there for, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from . import checks, items, rules
from .compare import Difference
from .rules import Dispute
from .test_harness import on_mps, sample


def dispute(host: Any, device: Any, exact: Any = None, **sample_parts: Any) -> Dispute:
    return Dispute(host, device, lambda: exact, SimpleNamespace(**sample_parts), "they differ")


def refused(rule: Any, *parts: Any, words: str = "", **more: Any) -> None:
    with pytest.raises(Difference, match=words):
        rule(dispute(*parts, **more))


def test_every_rule_names_entries_and_tasks_that_there_are() -> None:
    names = {op.name for op in items.databases()["op"]}
    for rule in rules.RULES:
        assert set(rule.entries) <= names, rule.entries
        assert set(rule.tasks) <= {"forward", "gradients", "variants", "out="} and len(rule.reason) > 50
    assert rules.find_rule("fmod", "forward") is not None
    assert rules.find_rule("fmod", "gradients") is None and rules.find_rule("abs", "forward") is None


X = torch.tensor([[2.0, 1.0, 2.0, 0.0], [3.0, 3.0, 3.0, float("nan")]])
SORTED = {
    "the CPU's": ([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]], [[1, 2, 0], [2, 1, 0]], ""),
    "another tie": ([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]], [[1, 0, 2], [0, 1, 2]], ""),
    "another element": ([[0.0, 2.0, 2.0], [3.0, 3.0, 3.0]], [[3, 0, 2], [0, 1, 2]], "other elements"),
    "another value": ([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]], [[1, 0, 2], [0, 1, 2]], "values"),
    "a place twice": ([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]], [[1, 2, 2], [0, 1, 2]], "twice"),
}


@pytest.mark.parametrize("name", SORTED)
def test_ties_are_anyones_but_elements_are_not(name: str) -> None:
    values, places, words = SORTED[name]
    host = (torch.tensor(SORTED["the CPU's"][0]), torch.tensor(SORTED["the CPU's"][1]))
    device = (torch.tensor(values), torch.tensor(places))
    rule = rules.same_but_for_ties(0)
    parts = {"input": X, "args": (1,), "kwargs": {}}
    if words:
        refused(rule, host, device, words=words, **parts)
    else:
        rule(dispute(host, device, **parts))
        rule(dispute(host[1], device[1], input=X, args=(), kwargs={"dim": 1}))
        # A stable sort has one answer.
        refused(rule, host, device, words="they differ", input=X, args=(1,), kwargs={"stable": True})


def test_the_dimension_of_topk_comes_after_k() -> None:
    x = torch.tensor([[1.0, 5.0], [1.0, 5.0]])
    places = torch.tensor([[0, 0]]), torch.tensor([[1, 1]])
    rules.same_but_for_ties(1)(dispute(*places, input=x, args=(1, 0), kwargs={}))
    for args in ((1, 1), (1,)):
        refused(rules.same_but_for_ties(1), *places, words="other elements", input=x, args=args, kwargs={})


def test_near_float64_is_as_near_as_others_must_be_to_the_cpu() -> None:
    nan, exact = torch.tensor([float("nan"), 2.0]), torch.tensor([1.0, 2.0], dtype=torch.float64)
    rules.near_float64(dispute([nan], [torch.tensor([1.0, 2.0])], [exact]))
    refused(rules.near_float64, [nan], [torch.tensor([1.0001, 2.0])], [exact], words="float64")
    refused(rules.near_float64, [nan], [nan], [exact], words="float64")


def test_no_worse_than_the_cpu_is_twice_its_distance() -> None:
    exact = torch.tensor([0.0, 1000.0], dtype=torch.float64)
    cpu = torch.tensor([0.1, 1000.0])
    rules.no_worse_than_the_cpu(dispute(cpu, torch.tensor([-0.19, 1000.0]), exact))
    rules.no_worse_than_the_cpu(dispute(cpu, cpu.clone(), exact))
    refused(rules.no_worse_than_the_cpu, cpu, torch.tensor([-0.21, 1000.0]), exact, words="the CPU 1.00e-01")
    refused(rules.no_worse_than_the_cpu, cpu, torch.tensor([float("nan"), 1000.0]), exact, words="inf from float64")
    refused(rules.no_worse_than_the_cpu, torch.tensor(1), torch.tensor(2), torch.tensor(1), words="not")


def test_a_rule_is_asked_only_where_values_differ_and_never_about_the_form() -> None:
    rule = rules.Rule(("abs",), ("forward",), "", rules.near_float64)

    def judged(body: Any) -> checks.Tally:
        tally = checks.Tally()
        x = torch.rand(4, 3)
        checks.judge(sample(x), lambda mirror, x, args, kwargs: body(x), tally, rule=rule)
        return tally

    assert judged(lambda x: x + 1).by_rule == 0
    # As a CPU that is wrong, and float64 that is right.
    wrong = lambda x: x + (1 if on_mps(x) or x.dtype == torch.float64 else 2)  # noqa: E731
    assert judged(wrong).by_rule == 1
    with pytest.raises(Difference, match="strides"):
        judged(lambda x: wrong(x).t().contiguous().t() if on_mps(x) else wrong(x))
    with pytest.raises(Difference, match="float64"):
        judged(lambda x: x + (3 if on_mps(x) else 1))


def test_float64_has_the_weights_and_the_leaves_of_the_sample() -> None:
    x = torch.rand(40, requires_grad=True)

    def call(mirror: Any, value: Any, args: tuple, kwargs: dict) -> Any:
        assert value is args[0], "one tensor met twice stays one"
        return checks.first_derivatives(value * 2, mirror.leaves)

    (wide,) = checks.in_float64(sample(x, x), call)
    (narrow,) = checks.call_on("cpu", sample(x, x), call).result
    assert wide.dtype == torch.float64 and torch.equal(wide, narrow.double())
