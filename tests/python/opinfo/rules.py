"""Entries for which a result that differs from the CPU's may be right, each with its reason.

Every entry is held to the CPU. Only a sample of an entry named here whose values differ comes to the entry's rule; its
shape, type, strides and aliasing must be the CPU's all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from . import compare
from .compare import Difference


@dataclass(frozen=True)
class Dispute:
    """A sample whose results differ. `exact()` is what the CPU gives for it in float64."""

    host: Any
    device: Any
    exact: Callable[[], Any]
    sample: Any
    difference: str

    def parts(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Path, the CPU's result, the device's and float64's of every tensor."""
        for (path, host), (_, device), (_, exact) in zip(*map(compare.leaves, (self.host, self.device, self.exact()))):
            if isinstance(host, torch.Tensor):
                yield path, host, device, exact
            else:
                compare.check_results(host, device)


@dataclass(frozen=True)
class Rule:
    entries: tuple[str, ...]
    tasks: tuple[str, ...]
    reason: str
    # Raises Difference.
    judge: Callable[[Dispute], None]


def near_float64(dispute: Dispute) -> None:
    """As close to float64 as every entry must be to the CPU."""
    for path, host, device, exact in dispute.parts():
        compare.check_values(f"{path} beside float64", exact.to(host.dtype), device)


def no_worse_than_the_cpu(dispute: Dispute) -> None:
    """At most twice as far from float64 as the CPU, by L2 distance."""
    for path, host, device, exact in dispute.parts():
        try:
            compare.check_values(path, host, device)
        except Difference as difference:
            mine, theirs = (distance(tensor, exact) for tensor in (device, host))
            if not host.is_floating_point() or not mine <= 2 * theirs:
                raise Difference(f"{difference}; {mine:.2e} from float64, the CPU {theirs:.2e}") from None


def distance(tensor: torch.Tensor, exact: torch.Tensor) -> float:
    """By L2; infinite where one is finite and the other is not."""
    tensor, exact = tensor.detach().cpu().double(), exact.detach().double()
    finite = exact.isfinite()
    if not torch.equal(finite, tensor.isfinite()):
        return float("inf")
    return (tensor - exact)[finite].norm().item()


def same_but_for_ties(place_of_dim: int) -> Callable[[Dispute], None]:
    """The elements at the places are the CPU's, and no place is named twice; `place_of_dim` is that of `dim` among the
    arguments after the input. A stable sort has one right answer."""

    def judge(dispute: Dispute) -> None:
        sample = dispute.sample
        if sample.kwargs.get("stable"):
            raise Difference(dispute.difference)
        dim = sample.kwargs.get("dim", sample.args[place_of_dim] if len(sample.args) > place_of_dim else -1)
        *values, places = dispute.device if isinstance(dispute.device, tuple) else [dispute.device]
        *_, wanted = dispute.host if isinstance(dispute.host, tuple) else [dispute.host]
        places, source = places.cpu(), sample.input.detach()
        picked, wanted = source.gather(dim, places), source.gather(dim, wanted)
        same = picked == wanted
        if source.is_floating_point():
            same |= picked.isnan() & wanted.isnan()
        if not bool(same.all()):
            raise Difference(f"other elements than the CPU's: {dispute.difference}")
        if values and not compare.bits_equal(values[0].detach().cpu(), picked):
            raise Difference("values that are not those at the places")
        if places.dim() and bool((places.sort(dim).values.diff(dim=dim) == 0).any()):
            raise Difference("a place twice")

    return judge


def same_as_without_out(function: Callable[..., torch.Tensor]) -> Callable[[Dispute], None]:
    """What the CPU gives to who names no out=."""

    def judge(dispute: Dispute) -> None:
        sample = dispute.sample
        wanted = function(sample.input, *sample.args, **sample.kwargs)
        for path, device in compare.leaves(dispute.device):
            if isinstance(device, torch.Tensor):
                compare.check_values(path, wanted, device)

    return judge


RULES = [
    Rule(
        ("sort", "argsort"),
        ("forward", "variants"),
        "Where the sort need not be stable, the CPU's order of equal elements is that of std::sort or x86-simd-sort, by "
        "type and by what the processor has (ATen/native/cpu/SortingKernel.cpp). On mps every sort is stable.",
        same_but_for_ties(0),
    ),
    Rule(
        ("topk",),
        ("forward", "variants"),
        "The CPU takes equal elements in the order in which std::partial_sort or std::nth_element leaves them "
        "(ATen/native/TopKImpl.h). On mps the first ones are taken, in their order.",
        same_but_for_ties(1),
    ),
    Rule(
        ("fmod", "remainder"),
        ("forward", "variants"),
        "The CPU's vectors use SLEEF's fmod, which gives NaN where the quotient is too large for float32; the elements "
        "left over after the last full vector get the exact remainder, as all do on mps.",
        near_float64,
    ),
    Rule(
        ("native_layer_norm", "nn.functional.layer_norm"),
        ("forward", "gradients", "variants"),
        "The CPU computes x rstd - mean rstd, whose two terms nearly cancel in a row of equal elements, where rstd is "
        "316. On mps the mean goes first, which leaves the exact 0.",
        near_float64,
    ),
    Rule(
        ("nn.functional.nll_loss",),
        ("forward",),
        "The CPU adds up losses and weights in float16 (ATen/native/LossNLL2d.cpp), mps in float32.",
        near_float64,
    ),
    Rule(
        ("nn.functional.gelu",),
        ("out=",),
        "The CPU gives gelu to oneDNN, which leaves an out= tensor whose elements do not lie dense as it was "
        "(ATen/native/Activation.cpp). On mps it gets the result.",
        same_as_without_out(torch.nn.functional.gelu),
    ),
    Rule(
        ("logcumsumexp",),
        ("gradients",),
        "PyTorch's formula adds and subtracts 10,000 in samples of such size, where float32 has steps of 1e-3.",
        no_worse_than_the_cpu,
    ),
    Rule(
        ("cov",),
        ("gradients",),
        "The gradient of the weights of two observations is 0; what is there instead is how terms of 100 that cancel "
        "were rounded.",
        no_worse_than_the_cpu,
    ),
    Rule(
        ("nn.functional.multi_head_attention_forward",),
        ("forward", "variants"),
        "Scores of some samples are in the thousands, where float32 has steps of 1e-4, and softmax makes those errors "
        "relative to the result.",
        no_worse_than_the_cpu,
    ),
]


def find_rule(entry: str, task: str) -> Rule | None:
    return next((rule for rule in RULES if entry in rule.entries and task in rule.tasks), None)
