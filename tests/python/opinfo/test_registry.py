"""The dispatcher's tables: no op of the CPU is missing on mps, and none that was taken over lost its gradient."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


def aten_ops() -> list[str]:
    return [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]


# What the dispatcher takes before it looks at a backend's fallback.
COMPOSITE = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")


def missing(names: Iterable[str], cpu: str, device: str) -> list[str]:
    """Ops that the CPU has a kernel for and that on mps would run a composite one made for other devices.

    Those without any composite kernel reach the fallback. A composite one without a derivative of its own is taken
    apart above the device, on the CPU as on mps.
    """

    def hidden(name: str) -> bool:
        if has_kernel(name, "CompositeImplicitAutograd"):
            return has_kernel(name, "Autograd")
        return any(has_kernel(name, key) for key in COMPOSITE)

    return [name for name in names if has_kernel(name, cpu) and not has_kernel(name, device) and hidden(name)]


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
    assert f"{device}: registered at" in torch._C._dispatch_dump_table("aten::linalg_lu_solve.out")


def test_composite_ops_taken_over_keep_their_gradient() -> None:
    assert without_gradient(aten_ops()) == []


def test_the_walk_finds_a_kernel_that_is_missing_and_a_gradient_that_is_cut() -> None:
    library = torch.library.Library("rivulet_registry", "DEF")
    library.define("on_cpu_only(Tensor x) -> Tensor")
    library.impl("on_cpu_only", lambda x: x.clone(), "CPU")
    library.impl("on_cpu_only", lambda x: x.clone(), "CompositeExplicitAutograd")
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


def test_no_python_kernel_of_pytorch_takes_an_op_over() -> None:
    script = (
        "import warnings; warnings.simplefilter('error')\n"
        "import torch\n"
        "before = torch._C._dispatch_dump_table('aten::linalg_lu_solve.out').count('_refs')\n"
        "import torch._refs.linalg\n"
        "after = torch._C._dispatch_dump_table('aten::linalg_lu_solve.out').count('_refs')\n"
        "lu, pivots = torch.linalg.lu_factor(torch.eye(3, device='mps'))\n"
        "out = torch.empty(0, device='mps')\n"
        "torch.linalg.lu_solve(lu, pivots, torch.ones(3, 1, device='mps'), out=out)\n"
        "print(before, after, out.flatten().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "0 0 [1.0, 1.0, 1.0]"
