"""The mps backend that PyTorch's wheels for macOS carry is replaced; a stand-in plays it (tests/standin)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from standin_support import PRELUDE, build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the stand-ins are C++, and there is no compiler")

Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(run_python: Script) -> Script:
    """Runs a script after PRELUDE in a process of its own."""
    env = {"STANDIN_IN_TREE": str(build("in_tree")), "STANDIN_LATE": str(build("late"))}

    def run(code: str, extra: dict[str, str] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run_python(PRELUDE + code, env={**env, **(extra or {})}, check=check)

    return run


# The order of macOS: PyTorch's own is there when the end of `import torch` loads Rivulet.
BEFORE = """
standin()
import torch
"""

WORK = """
import threading
import torch.nn.functional as F

def work(seed=0):
    g = torch.Generator("mps").manual_seed(seed)
    x = torch.randn(8, 16, device="mps", generator=g)
    layer = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    layer.to("mps")
    loss = F.cross_entropy(layer(x), torch.arange(8, device="mps") % 4)
    loss.backward()
    twin = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    twin.load_state_dict({k: v.cpu() for k, v in layer.state_dict().items()})
    F.cross_entropy(twin(x.cpu()), torch.arange(8) % 4).backward()
    for ours, cpus in zip(layer.parameters(), twin.parameters()):
        torch.testing.assert_close(ours.grad.cpu(), cpus.grad, rtol=1e-4, atol=1e-5)
    values, order = x.sort(dim=1)
    torch.testing.assert_close(values.cpu(), x.cpu().sort(dim=1).values)
    torch.testing.assert_close(x.cumsum(1).erf().cpu(), x.cpu().cumsum(1).erf())
    # The first has a kernel in the in-tree backend, the second its fallback.
    for op in (torch.special.erfinv, torch.special.ndtri):
        torch.testing.assert_close(op(x.tanh().abs() * 0.9).cpu(), op(x.cpu().tanh().abs() * 0.9))
    # Ops made of others, of which the in-tree backend has a kernel and, for two, one for the derivative.
    for op in (lambda t: F.max_pool2d(t[None], 2), lambda t: F.rms_norm(t, (16,)), lambda t: t[:, :8].det()):
        ours, cpus = (t.detach().requires_grad_() for t in (x, x.cpu()))
        for t in (ours, cpus):
            op(t).square().sum().backward()
        torch.testing.assert_close(ours.grad.cpu(), cpus.grad, rtol=1e-4, atol=1e-5)
    # Asks PyTorch's table for the allocator, which our kernels do not need.
    assert torch.accelerator.memory_allocated() > 0
    sparse = torch.eye(4).to_sparse().to("mps")
    assert sparse.coalesce()._nnz() == 4
    return loss.item()
"""


def test_nothing_of_the_in_tree_backend_is_reached(script: Script) -> None:
    done = script(BEFORE + WORK + "work()\nassert_unreached()")
    assert done.stderr == ""


def test_it_is_the_same_where_rivulet_is_loaded_by_hand(script: Script) -> None:
    code = """
import torch
standin()
import rivulet
rivulet.load()
"""
    done = script(code + WORK + "work()\nassert_unreached()", {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert done.stderr == ""


def test_the_library_alone_takes_every_part_over(script: Script) -> None:
    # What Python's side looks at again at load, the library has looked at before.
    code = """
import torch
import torch.nn.functional as F
standin()
from rivulet import _load, _native
_native.Native(_load.find_library(_load.torch_minor(torch.__version__))).register(0)
x = torch.rand(16, 16, device="mps", requires_grad=True)
y = F.rms_norm(F.max_pool2d(x[None], 2)[0], (8,)).det() + torch.special.ndtri(x * 0.9 + 0.05).sum() + torch.erf(x).sum()
y.backward()
assert x.grad.cpu().abs().sum() > 0
assert_unreached()
"""
    assert script(code, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}).stderr == ""


def test_a_backend_that_comes_second_is_not_reached_either(script: Script) -> None:
    code = """
import torch
x = torch.ones(3, device="mps")
standin()
"""
    done = script(code + WORK + "work()\nassert_unreached()\nprint(_in_tree.standin_refused().decode())\nprint((x + x).tolist())")
    # The process goes on, although neither its hooks nor its fallback could be registered.
    assert "multiple backend fallbacks" in done.stdout
    assert "[2.0, 2.0, 2.0]" in done.stdout


def test_eight_threads_right_after_the_takeover(script: Script) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    # Each compares its numbers with the CPU's.
    assert all(loss > 0 for loss in pool.map(work, range(16)))
assert_unreached()
"""
    assert script(BEFORE + WORK + code).stderr == ""


def test_created_hooks_are_a_clear_refusal(script: Script) -> None:
    code = """
import torch
standin().standin_create_hooks()
import rivulet
try:
    rivulet.load()
except RuntimeError as error:
    print(error)
else:
    raise AssertionError("loaded")
# The other backend is whole: none of its parts was replaced.
assert torch.backends.mps.is_available()
before = calls()
x = torch.ones(4, 4, device="mps")
assert (x + x).cpu().sum() == 32
assert torch.special.ndtri(x * 0.5).cpu().sum() == 0
torch.mps.synchronize()
assert all(calls()[part] > before[part] for part in PARTS), (before, calls())
# Another attempt is refused as well, and does not end the process.
from rivulet import _load, _native
try:
    _native.Native(_load.find_library(_load.torch_minor(torch.__version__))).register(0)
except _native.LibraryError as error:
    assert "already registered" in str(error), error
else:
    raise AssertionError("registered")
report = rivulet.doctor()
assert not report["available"] and "already created" in report["reason"], report["reason"]
"""
    done = script(code, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert "mps was used before rivulet was loaded" in done.stdout


def test_the_switch_leaves_every_part_in_its_place(script: Script) -> None:
    code = """
late()
x = torch.ones(4, 4, device="mps")
assert (x + x).cpu().sum() == 32
assert torch.special.ndtri(x * 0.5).cpu().sum() == 0
torch.mps.synchronize()
assert torch.mps.current_allocated_memory() == 4711
torch.ops.standin_late.twice(x)
assert all(calls().values()), calls()
assert _late.late_calls() == 1
assert not hasattr(torch.mps, "release_current_thread_slot")
"""
    script(BEFORE + code, {"RIVULET_DISABLE": "1"})


LATE_OPS = """
ops = torch.ops.standin_late
x = torch.randn(3, 4, device="mps")
for name in ("twice", "plain", "composed", "composed_too"):
    op = getattr(ops, name)
    torch.testing.assert_close(op(x).cpu(), op(x.cpu()))
w = x.clone().requires_grad_()
ops.composed_too(w).sum().backward()
assert (w.grad == 3).all()
try:
    ops.metal_only(x)
except NotImplementedError as error:
    assert "standin_late::metal_only" in str(error) and "RIVULET_DISABLE=1" in str(error), error
else:
    raise AssertionError("metal_only ran")
assert_late_unreached()
"""


@pytest.mark.parametrize("backend", ["standin()", ""], ids=["beside-an-in-tree-backend", "alone"])
@pytest.mark.parametrize(
    "order",
    ["late()\nimport torch", "import torch\nlate()", "import torch\ntorch.ones(1, device='mps')\nlate()"],
    ids=["before", "after", "after-first-use"],
)
def test_a_library_that_brings_kernels_runs_on_the_cpu_path(script: Script, backend: str, order: str) -> None:
    done = script(f"{backend}\n{order}\n{LATE_OPS}" + ("assert_unreached()" if backend else ""))
    assert done.stderr == ""


def test_a_kernel_that_replaced_ours_is_replaced_again(script: Script) -> None:
    code = """
late()
x = torch.linspace(-1, 1, 9, device="mps")
torch.testing.assert_close(x.erf().cpu(), x.cpu().erf())
assert_late_unreached()
assert_unreached()
"""
    script(BEFORE + code, {"STANDIN_OVERRIDE": "1"})


def test_the_doctor_lists_what_was_replaced(script: Script) -> None:
    code = """
import rivulet
late()
report = rivulet.doctor()
found = report["displaced"]
assert {entry["part"] for entry in found} == {"hooks", "allocator", "guard", "fallback", "kernel"}
at_load = {entry["name"]: entry for entry in found if entry["part"] == "kernel" and not entry["later"]}
assert at_load["aten::add.Tensor"]["now"] == "a kernel of Rivulet"
assert at_load["aten::linalg_det"]["now"] == "the ops that it is made of"
assert at_load["aten::_mps_convolution"]["now"] == "a kernel of Rivulet"
assert at_load["aten::erfinv"]["now"] == "a kernel of Rivulet"
# What PyTorch packs in one way for mps and in others elsewhere.
refused = {entry["name"] for entry in found if not entry["later"] and entry["now"].startswith("refused")}
assert refused == {"aten::_convert_weight_to_int4pack", "aten::_weight_int4pack_mm"}, refused
assert "in_tree.cpp" in at_load["aten::mm"]["from"]
later = {entry["name"]: entry["now"] for entry in found if entry["later"]}
assert later == {
    "standin_late::twice": "the op's kernel for the CPU",
    "standin_late::composed_too": "the ops that it is made of",
    "standin_late::metal_only": "refused: it has no kernel but this one",
}, later
assert any("metal_only" in line for line in report["advice"])
print(report)
"""
    text = script(BEFORE + code).stdout
    assert "PyTorch's own mps backend, replaced by" in text
    assert "standin_late::twice (MPS)" in text


def test_alone_nothing_is_listed(script: Script) -> None:
    assert script("import rivulet\nprint(rivulet.doctor()['displaced'])").stdout == "[]\n"


# Composite ops of which the in-tree backend has a kernel: without a derivative, with one that needs another kernel of that
# backend, with a derivative of ours.
COMPOSITES = {
    "linalg_det": "x.reshape(4, 4).det()",
    "linalg_slogdet": "torch.linalg.slogdet(x.reshape(4, 4))[1]",
    "max_pool2d": "F.max_pool2d(x.reshape(1, 1, 4, 4), 2)",
    "_fused_rms_norm": "F.rms_norm(x.reshape(4, 4), (4,))",
    "linear": "F.linear(x.reshape(4, 4), x.reshape(4, 4) + 1)",
}


@pytest.mark.parametrize("call", COMPOSITES.values(), ids=COMPOSITES)
def test_a_derivative_goes_through_an_op_that_was_a_kernel(script: Script, call: str) -> None:
    code = f"""
import torch.nn.functional as F

def gradient(start):
    x = start.detach().requires_grad_()
    ({call}).square().sum().backward()
    return x.grad.cpu()

start = torch.randn(16, generator=torch.Generator().manual_seed(1))
torch.testing.assert_close(gradient(start.to("mps")), gradient(start))
assert_unreached()
"""
    script(BEFORE + code)


def test_a_generator_of_the_in_tree_backend_is_refused(script: Script) -> None:
    text = script(BEFORE + "print(_in_tree.standin_draw().decode())\nassert_unreached()").stdout
    assert "was not made by Rivulet" in text and "torch.Generator('mps')" in text


def test_what_the_macos_build_asks_for_by_itself_is_served(script: Script) -> None:
    code = """
aten = torch.ops.aten
x = torch.randn(5, 3, 4, device="mps", requires_grad=True)
lstm = torch.nn.LSTM(4, 6)
expected = lstm(x.detach().cpu())[0]
params = [weight.detach().to("mps") for weight in lstm._flat_weights]
hx = [torch.zeros(1, 3, 6, device="mps")] * 2
results = aten._lstm_mps(x, hx, params, True, 1, 0.0, True, False, False)
torch.testing.assert_close(results[0].cpu(), expected)
results[0].sum().backward()
assert x.grad.abs().sum() > 0
image, weight = torch.randn(1, 2, 6, 6, device="mps"), torch.randn(3, 2, 3, 3, device="mps")
y = aten._mps_convolution(image, weight, None, [1, 1], [1, 1], [1, 1], 1)
torch.testing.assert_close(y.cpu(), torch.conv2d(image.cpu(), weight.cpu(), padding=1), rtol=1e-4, atol=1e-5)
assert_unreached()
"""
    script(BEFORE + code)


def test_kernels_written_in_python_stay(script: Script) -> None:
    code = """
late()
import torch.library

@torch.library.custom_op("standin_py::half", mutates_args=(), device_types="mps")
def half(x: torch.Tensor) -> torch.Tensor:
    assert x.device.type == "mps"
    return x / 2

assert torch.ops.standin_py.half(torch.ones(2, device="mps")).tolist() == [0.5, 0.5]

# A kernel for the CPU first, by which the op runs on mps until it has its own.
lib = torch.library.Library("standin_py", "FRAGMENT")
lib.define("third(Tensor x) -> Tensor")
lib.impl("third", lambda x: x / 3, "CPU")
assert torch.ops.standin_py.third(torch.full((2,), 3.0, device="mps")).tolist() == [1, 1]
own = torch.library.Library("standin_py", "IMPL")
own.impl("third", lambda x: x * 0, "MPS")
assert torch.ops.standin_py.third(torch.full((2,), 3.0, device="mps")).tolist() == [0, 0]
del own
assert torch.ops.standin_py.third(torch.full((2,), 3.0, device="mps")).tolist() == [1, 1]
assert_unreached()
print("so far", file=sys.stderr, flush=True)

# Over a kernel of another library that ours had replaced.
with torch.library._scoped_library("standin_late", "IMPL") as lib:
    lib.impl("twice", lambda x: x * 20, "MPS", allow_override=True)
    assert torch.ops.standin_late.twice(torch.ones(2, device="mps")).tolist() == [20, 20]
assert torch.ops.standin_late.twice(torch.ones(2, device="mps")).tolist() == [2, 2]
assert_late_unreached()
"""
    # Before that nobody has overridden a kernel but we.
    assert script(BEFORE + code).stderr.startswith("so far")


def test_an_op_that_is_defined_piece_by_piece_ends_up_right(script: Script) -> None:
    # With a fallback in the tree, an op gets a kernel by name as soon as it is seen, which may be too soon.
    code = """
lib = torch.library.Library("standin_pieces", "DEF")
lib.define("f(Tensor x) -> Tensor")
op = torch.ops.standin_pieces.f
x = torch.ones(2, device="mps", requires_grad=True)
lib.impl("f", lambda x: x * 5, "CPU")
assert op(x.detach()).tolist() == [5, 5]
lib.define("g(Tensor x) -> Tensor")
op = torch.ops.standin_pieces.g
lib.impl("g", lambda x: x * 7, "CompositeImplicitAutograd")
op(x).sum().backward()
assert x.grad.tolist() == [7, 7]
assert_unreached()
# And once more under the same name.
lib._destroy()
lib = torch.library.Library("standin_pieces", "DEF")
lib.define("f(Tensor x, Tensor y) -> Tensor")
lib.impl("f", lambda x, y: x - y, "CPU")
assert torch.ops.standin_pieces.f(x.detach(), x.detach()).tolist() == [0, 0]
assert_unreached()
"""
    script(BEFORE + code)


def test_torch_mps_is_served_by_ours(script: Script) -> None:
    code = """
# What a macOS build has and a Linux build has not.
def theirs(*args, **kwargs):
    raise AssertionError("the in-tree backend's was called")
for name in ("_mps_get_name", "_mps_get_core_count", "_mps_compileShader", "_mps_loadMetalllib",
             "_mps_loadMetallibFromPath", "_mps_isCaptureEnabled", "_mps_isCapturing", "_mps_startCapture",
             "_mps_stopCapture", "_mps_host_alias_storage"):
    setattr(torch._C, name, theirs)
import rivulet
rivulet.load()
x = torch.ones(1000, device="mps")
torch.mps.synchronize()
torch.mps.empty_cache()
assert torch.mps.current_allocated_memory() != 4711 and torch.mps.current_allocated_memory() >= 4000
assert torch.mps.driver_allocated_memory() != 4711
assert torch.mps.recommended_max_memory() != 4711
torch.mps.set_per_process_memory_fraction(1.0)
torch.mps.manual_seed(3)
state = torch.mps.get_rng_state()
torch.mps.set_rng_state(state)
event = torch.mps.Event(enable_timing=True)
event.record()
event.wait()
event.synchronize()
assert event.query()
with torch.mps.stream(torch.mps.Stream()):
    x.add_(1)
torch.mps.current_stream().synchronize()
assert torch.mps.device_count() == 1
assert isinstance(torch._C._mps_get_name(), str)
assert torch._C._mps_get_core_count() > 0
assert not torch.mps.profiler.is_metal_capture_enabled() and not torch.mps.profiler.is_capturing_metal()
torch._C._mps_stopCapture()
for call in (
    lambda: torch.mps.compile_shader("kernel void f() {}"),
    lambda: torch.mps.load_metallib("x"),
    lambda: torch.mps.profiler.metal_capture("x").__enter__(),
):
    try:
        call()
    except RuntimeError as error:
        assert "needs Apple's Metal" in str(error), error
    else:
        raise AssertionError("not refused")
assert_unreached()
"""
    script("import torch\nstandin()\n" + code, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "RIVULET_ADAPTER": "host"})
