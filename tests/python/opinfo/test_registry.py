"""The dispatcher's tables: no op of the CPU is missing on mps, and none that was taken over lost its gradient."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


def aten_ops() -> list[str]:
    return [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]


def missing(names: Iterable[str], cpu: str, device: str) -> list[str]:
    """Ops that the CPU has a kernel for and that would reach no kernel, or a composite one of another purpose."""
    return [
        name
        for name in names
        if has_kernel(name, cpu)
        and not has_kernel(name, device)
        # Without a derivative of its own such an op is taken apart instead, above the device.
        and (has_kernel(name, "Autograd") or not has_kernel(name, "CompositeImplicitAutograd"))
    ]


def without_gradient(names: Iterable[str]) -> list[str]:
    """Composite ops taken over for mps with nothing at autograd: their gradients, which came from their parts, are
    cut."""
    return [
        name
        for name in names
        if has_kernel(name, "CompositeImplicitAutograd")
        and has_kernel(name, "MPS")
        and not has_kernel(name, "AutogradMPS")
        and not has_kernel(name, "Autograd")
    ]


@pytest.mark.parametrize(
    ("cpu", "device"), [("CPU", "MPS"), ("SparseCPU", "SparseMPS"), ("SparseCsrCPU", "SparseCsrMPS")]
)
def test_every_op_with_a_kernel_on_the_cpu_has_one_on_mps(cpu: str, device: str) -> None:
    names = aten_ops()
    assert sum(has_kernel(name, cpu) for name in names) > 100
    assert missing(names, cpu, device) == []


def test_composite_ops_taken_over_keep_their_gradient() -> None:
    assert without_gradient(aten_ops()) == []


def test_the_walk_finds_a_kernel_that_is_missing_and_a_gradient_that_is_cut() -> None:
    library = torch.library.Library("rivulet_registry", "DEF")
    library.define("on_cpu_only(Tensor x) -> Tensor")
    library.impl("on_cpu_only", lambda x: x.clone(), "CPU")
    library.define("cut(Tensor x) -> Tensor")
    library.impl("cut", lambda x: x.clone(), "CompositeImplicitAutograd")
    library.impl("cut", lambda x: x.clone(), "MPS")
    names = ["rivulet_registry::on_cpu_only", "rivulet_registry::cut"]
    assert missing(names, "CPU", "MPS") == names[:1]
    assert without_gradient(names) == names[1:]


def test_a_library_loaded_later_runs_on_mps_too() -> None:
    library = torch.library.Library("rivulet_later", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: torch.from_numpy(x.numpy() * 2), "CPU")
    result = torch.ops.rivulet_later.twice(torch.arange(4.0, device="mps"))
    assert result.device.type == "mps" and result.tolist() == [0, 2, 4, 6]
