"""The surface of `torch.mps`, `torch.backends.mps` and `torch.accelerator`, name by name.

Every public name of the three modules has an entry in one of the tables; a name that a later PyTorch adds has none and
fails until somebody has decided whether it is served or refused.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import torch
import torch.mps.profiler

import rivulet

TORCH = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def is_int(value):
    return type(value) is int and value >= 0


def is_none(value):
    return value is None


def is_state(value):
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.device.type == "cpu"


def raises(kind, text, call):
    with pytest.raises(kind, match=text):
        call()
    return True


def within(stream_context):
    with stream_context:
        return torch.ones(2, device="mps").sum().item() == 2


# name -> (call, check of its result)
MPS = {
    "device_count": (lambda: torch.mps.device_count(), lambda n: n == 1),
    "is_available": (lambda: torch.mps.is_available(), lambda v: v is True),
    "synchronize": (lambda: torch.mps.synchronize(), is_none),
    "get_rng_state": (lambda: torch.mps.get_rng_state(), is_state),
    "set_rng_state": (lambda: torch.mps.set_rng_state(torch.mps.get_rng_state()), is_none),
    "manual_seed": (lambda: torch.mps.manual_seed(1), is_none),
    "seed": (lambda: torch.mps.seed(), is_none),
    "empty_cache": (lambda: torch.mps.empty_cache(), is_none),
    "set_per_process_memory_fraction": (lambda: torch.mps.set_per_process_memory_fraction(1.0), is_none),
    "current_allocated_memory": (lambda: torch.mps.current_allocated_memory(), is_int),
    "driver_allocated_memory": (lambda: torch.mps.driver_allocated_memory(), is_int),
    "recommended_max_memory": (lambda: torch.mps.recommended_max_memory(), lambda n: n > 1 << 20),
    "Event": (lambda: torch.mps.Event(), lambda e: e.query() is False),
    "Stream": (lambda: torch.mps.Stream(), lambda s: isinstance(s, torch.Stream)),
    "stream": (lambda: within(torch.mps.stream(torch.mps.Stream())), lambda v: v is True),
    "current_stream": (lambda: torch.mps.current_stream(), lambda s: isinstance(s, torch.mps.Stream)),
    "default_stream": (lambda: torch.mps.default_stream(), lambda s: s.stream_id == 0),
    "set_stream": (lambda: torch.mps.set_stream(None), is_none),
    "profiler": (lambda: torch.mps.profiler, inspect.ismodule),
    "compile_shader": (
        lambda: raises(RuntimeError, "needs Apple's Metal", lambda: torch.mps.compile_shader("kernel void f() {}")),
        bool,
    ),
    "load_metallib": (
        lambda: (
            raises(RuntimeError, "needs Apple's Metal", lambda: torch.mps.load_metallib(b"MTLB"))
            and raises(RuntimeError, "needs Apple's Metal", lambda: torch.mps.load_metallib("kernels.metallib"))
        ),
        bool,
    ),
    "release_current_thread_slot": (lambda: torch.mps.release_current_thread_slot(), is_none),
    "BatchQueue": (lambda: torch.mps.BatchQueue(), lambda q: q.is_running is False),
    "configure_batch_queue": (lambda: torch.mps.configure_batch_queue(), lambda q: q.is_running is False),
    "batch_inference": (lambda: within(torch.mps.batch_inference()), lambda v: v is True),
}

# Not in __all__, but PyTorch itself or loaders call them.
MPS_PRIVATE = {
    "_is_in_bad_fork": (lambda: torch.mps._is_in_bad_fork(), lambda v: v is False),
    "_get_default_mps_generator": (
        lambda: torch.mps._get_default_mps_generator(),
        lambda g: isinstance(g, torch.Generator) and g.device.type == "mps",
    ),
    "_host_alias_storage": (
        lambda: torch.mps._host_alias_storage(torch.arange(3, dtype=torch.uint8, device="mps").untyped_storage()),
        lambda s: s.device.type == "cpu" and s.tolist() == [0, 1, 2],
    ),
}

PROFILER = {
    "start": (lambda: raises(RuntimeError, "Instruments", lambda: torch.mps.profiler.start()), bool),
    "stop": (lambda: raises(RuntimeError, "Instruments", lambda: torch.mps.profiler.stop()), bool),
    "profile": (lambda: raises(RuntimeError, "Instruments", lambda: within(torch.mps.profiler.profile())), bool),
    "metal_capture": (
        lambda: raises(
            RuntimeError, "needs Apple's Metal", lambda: within(torch.mps.profiler.metal_capture("x.gputrace"))
        ),
        bool,
    ),
    "is_metal_capture_enabled": (lambda: torch.mps.profiler.is_metal_capture_enabled(), lambda v: v is False),
    "is_capturing_metal": (lambda: torch.mps.profiler.is_capturing_metal(), lambda v: v is False),
}

BACKEND = {
    "is_built": (lambda: torch.backends.mps.is_built(), lambda v: v is True),
    "is_available": (lambda: torch.backends.mps.is_available(), lambda v: v is True),
    "is_macos13_or_newer": (lambda: torch.backends.mps.is_macos13_or_newer(), lambda v: v is True),
    "is_macos_or_newer": (lambda: torch.backends.mps.is_macos_or_newer(14, 0), lambda v: v is True),
    "get_name": (lambda: torch.backends.mps.get_name(), lambda v: isinstance(v, str) and v != ""),
    "get_core_count": (lambda: torch.backends.mps.get_core_count(), lambda v: type(v) is int and v > 0),
}


def accelerator_device(call):
    return lambda: call(torch.accelerator)


ACCELERATOR = {
    "current_accelerator": (accelerator_device(lambda a: a.current_accelerator()), lambda d: d.type == "mps"),
    "device_count": (accelerator_device(lambda a: a.device_count()), lambda n: n == 1),
    "is_available": (accelerator_device(lambda a: a.is_available()), lambda v: v is True),
    "current_device_index": (accelerator_device(lambda a: a.current_device_index()), lambda n: n == 0),
    # The two spellings that PyTorch calls deprecated.
    "current_device_idx": (accelerator_device(lambda a: a.current_device_idx()), lambda n: n == 0),
    "set_device_index": (
        accelerator_device(
            lambda a: (a.set_device_index(0), raises(RuntimeError, "index 7|7", lambda: a.set_device_index(7)))
        ),
        bool,
    ),
    "set_device_idx": (accelerator_device(lambda a: a.set_device_idx(0)), is_none),
    "device_index": (accelerator_device(lambda a: within(a.device_index(0))), lambda v: v is True),
    "current_stream": (accelerator_device(lambda a: a.current_stream()), lambda s: s.device.type == "mps"),
    "set_stream": (accelerator_device(lambda a: a.set_stream(a.current_stream())), is_none),
    "synchronize": (accelerator_device(lambda a: a.synchronize()), is_none),
    "get_device_capability": (
        accelerator_device(lambda a: a.get_device_capability()),
        lambda c: torch.float32 in c["supported_dtypes"] and torch.float64 in c["supported_dtypes"],
    ),
    "get_memory_info": (accelerator_device(lambda a: a.get_memory_info()), lambda m: 0 < m[0] <= m[1]),
    "empty_cache": (accelerator_device(lambda a: a.empty_cache()), is_none),
    "empty_host_cache": (accelerator_device(lambda a: a.empty_host_cache()), is_none),
    "memory_stats": (accelerator_device(lambda a: a.memory_stats()), lambda m: "allocated_bytes.all.current" in m),
    "memory_allocated": (accelerator_device(lambda a: a.memory_allocated()), is_int),
    "memory_reserved": (accelerator_device(lambda a: a.memory_reserved()), is_int),
    "max_memory_allocated": (accelerator_device(lambda a: a.max_memory_allocated()), is_int),
    "max_memory_reserved": (accelerator_device(lambda a: a.max_memory_reserved()), is_int),
    "reset_accumulated_memory_stats": (accelerator_device(lambda a: a.reset_accumulated_memory_stats()), is_none),
    "reset_peak_memory_stats": (accelerator_device(lambda a: a.reset_peak_memory_stats()), is_none),
    "Graph": (accelerator_device(lambda a: raises((RuntimeError, NotImplementedError), ".", lambda: a.Graph())), bool),
}

ACCELERATOR_RANDOM = {
    "initial_seed": (lambda: torch.accelerator.random.initial_seed(), is_int),
    "get_rng_state": (lambda: torch.accelerator.random.get_rng_state(), is_state),
    "get_rng_state_all": (lambda: torch.accelerator.random.get_rng_state_all(), lambda s: len(s) == 1),
}

# The version from which PyTorch has a name; below it only the ones that Rivulet brings earlier have to be there.
SINCE = {
    "empty_host_cache": (2, 12),
    "Graph": (2, 12),
    **dict.fromkeys(("get_device_capability", "get_memory_info"), (2, 10)),
}


def entries(table, module):
    found = []
    for name, (call, check) in table.items():
        if hasattr(module, name) or SINCE.get(name, (0, 0)) <= TORCH:
            found.append(pytest.param(name, call, check, id=name))
    return found


def assert_served(module, name, call, check):
    assert hasattr(module, name), f"{module.__name__}.{name} is missing"
    result = call()
    assert check(result), f"{module.__name__}.{name} gave {result!r}"


@pytest.mark.parametrize(("name", "call", "check"), entries(MPS, torch.mps))
def test_mps(name, call, check):
    assert_served(torch.mps, name, call, check)


@pytest.mark.parametrize(("name", "call", "check"), entries(MPS_PRIVATE, torch.mps))
def test_mps_private(name, call, check):
    assert_served(torch.mps, name, call, check)


@pytest.mark.parametrize(("name", "call", "check"), entries(PROFILER, torch.mps.profiler))
def test_mps_profiler(name, call, check):
    assert_served(torch.mps.profiler, name, call, check)


@pytest.mark.parametrize(("name", "call", "check"), entries(BACKEND, torch.backends.mps))
def test_backend(name, call, check):
    assert_served(torch.backends.mps, name, call, check)


@pytest.mark.filterwarnings("ignore:Use `.*_index` instead:FutureWarning")
@pytest.mark.parametrize(("name", "call", "check"), entries(ACCELERATOR, torch.accelerator))
def test_accelerator(name, call, check):
    assert_served(torch.accelerator, name, call, check)


@pytest.mark.skipif(not hasattr(torch.accelerator, "random"), reason="PyTorch has it from 2.14 on")
@pytest.mark.parametrize("name", ACCELERATOR_RANDOM)
def test_accelerator_random(name):
    assert set(torch.accelerator.random.__all__) <= set(ACCELERATOR_RANDOM)
    assert_served(torch.accelerator.random, name, *ACCELERATOR_RANDOM[name])


@pytest.mark.parametrize(
    ("module", "table"),
    [
        (torch.mps, MPS),
        (torch.mps.profiler, PROFILER),
        (torch.backends.mps, BACKEND),
        (torch.accelerator, ACCELERATOR),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_public_name_is_decided(module, table):
    assert set(module.__all__) <= set(table)


def test_every_name_of_the_c_module_is_there():
    """What torch/mps and torch/backends/mps call by name, on any PyTorch from 2.9 to 2.15."""
    names = """
        _has_mps _mps_is_available _mps_is_in_bad_fork _mps_deviceSynchronize _mps_emptyCache
        _mps_currentAllocatedMemory
        _mps_driverAllocatedMemory _mps_recommendedMaxMemory _mps_setMemoryFraction _mps_acquireEvent _mps_releaseEvent
        _mps_recordEvent _mps_waitForEvent _mps_synchronizeEvent _mps_queryEvent _mps_elapsedTimeOfEvents
        _mps_get_default_generator _mps_compileShader _mps_profilerStartTrace _mps_profilerStopTrace _mps_startCapture
        _mps_stopCapture _mps_isCaptureEnabled _mps_isCapturing _mps_get_name _mps_get_core_count
        _mps_is_on_macos_or_newer _mps_loadMetalllib _mps_loadMetallibFromPath _mps_host_alias_storage
        _MPSStreamBase _mps_getCurrentStream _mps_setStream
    """.split()
    assert [name for name in names if not hasattr(torch._C, name)] == []


def test_a_capture_that_cannot_be_says_why_and_the_code_in_it_does_not_run():
    """Stock PyTorch ends the capture in any case, which must not hide why it never began."""
    ran = []
    with pytest.raises(RuntimeError, match="a capture needs Apple's Metal, and this mps device runs on ") as error:
        with torch.mps.profiler.metal_capture("never"):
            ran.append(1)
    assert rivulet.adapter()["name"] in str(error.value)
    with pytest.raises(ValueError, match="the name of a capture is empty"):
        torch._C._mps_startCapture("")
    assert not ran and not torch.mps.profiler.is_capturing_metal()
    assert not list(Path.cwd().glob("*never.gputrace"))
    x = torch.ones(2, device="mps")
    assert (x + x).sum() == 4


def test_native_events_by_id_work():
    event = torch._C._mps_acquireEvent(True)
    end = torch._C._mps_acquireEvent(True)
    assert torch._C._mps_queryEvent(event) is False
    torch._C._mps_recordEvent(event)
    torch._C._mps_waitForEvent(event)
    torch._C._mps_recordEvent(end)
    torch._C._mps_synchronizeEvent(end)
    assert torch._C._mps_queryEvent(end) is True
    assert torch._C._mps_elapsedTimeOfEvents(event, end) >= 0
    torch._C._mps_releaseEvent(event)
    torch._C._mps_releaseEvent(end)


def test_max_buffer_length():
    if not hasattr(torch._C, "_mps_maxBufferLength"):
        pytest.skip("PyTorch has it from 2.13 on")
    assert torch._C._mps_maxBufferLength() > 1 << 20


def test_memory_figures_move_with_tensors():
    torch.mps.synchronize()
    before = torch.mps.current_allocated_memory()
    tensor = torch.zeros(3 << 20, dtype=torch.uint8, device="mps")
    held = torch.mps.current_allocated_memory()
    assert held - before >= 3 << 20
    assert torch.mps.driver_allocated_memory() >= held
    assert torch.accelerator.memory_allocated() == held
    assert torch.accelerator.max_memory_allocated() >= held
    del tensor
    assert torch.mps.current_allocated_memory() == before
    torch.mps.empty_cache()
    assert torch.mps.driver_allocated_memory() <= held


def test_memory_fraction_limits_allocations(run_python):
    run_python(
        "import torch\n"
        "limit = torch.mps.recommended_max_memory()\n"
        "torch.mps.set_per_process_memory_fraction((8 << 20) / limit)\n"
        "try:\n"
        "    torch.empty(64 << 20, dtype=torch.uint8, device='mps')\n"
        "except torch.OutOfMemoryError as error:\n"
        "    assert 'memory' in str(error)\n"
        "else:\n"
        "    raise AssertionError('64 MiB fitted into 8')\n"
        "assert torch.ones(4, device='mps').sum().item() == 4\n"
    )


@pytest.mark.parametrize("fraction", [0.0, 0.5, 2.0])
def test_memory_fraction_does_not_change_what_the_device_has(fraction):
    has = torch.mps.recommended_max_memory()
    try:
        torch.mps.set_per_process_memory_fraction(fraction)
        assert torch.mps.recommended_max_memory() == has
        assert torch.ones(1000, device="mps").sum().item() == 1000
    finally:
        torch.mps.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("bad", [-0.1, 2.5, 1])
def test_memory_fraction_refuses_bad_values(bad):
    with pytest.raises((ValueError, TypeError)):
        torch.mps.set_per_process_memory_fraction(bad)


def test_seeds_repeat_numbers():
    torch.mps.manual_seed(5)
    first = torch.rand(8, device="mps").cpu()
    state = torch.mps.get_rng_state()
    second = torch.rand(8, device="mps").cpu()
    torch.mps.set_rng_state(state)
    assert torch.equal(torch.rand(8, device="mps").cpu(), second)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(8, device="mps").cpu(), first)
    assert not torch.equal(first, second)


def test_fork_rng_restores_the_device():
    torch.mps.manual_seed(7)
    with torch.random.fork_rng(devices=[0], device_type="mps"):
        inside = torch.rand(4, device="mps").cpu()
    assert torch.equal(torch.rand(4, device="mps").cpu(), inside)


def test_own_generator():
    generator = torch.Generator(device="mps")
    assert generator.device == torch.device("mps:0") or generator.device == torch.device("mps")
    generator.manual_seed(11)
    first = torch.rand(4, device="mps", generator=generator).cpu()
    assert generator.initial_seed() == 11
    generator.manual_seed(11)
    before = torch.mps.get_rng_state()
    assert torch.equal(torch.rand(4, device="mps", generator=generator).cpu(), first)
    assert torch.equal(torch.mps.get_rng_state(), before)
    copy = torch.Generator(device="mps")
    copy.set_state(generator.get_state())
    assert torch.equal(
        torch.rand(4, device="mps", generator=copy).cpu(), torch.rand(4, device="mps", generator=generator).cpu()
    )


def test_bad_fork_is_told_in_a_child_forked_after_use(run_python):
    run_python(
        "import os, torch\n"
        "assert torch.mps._is_in_bad_fork() is False\n"
        "x = torch.ones(3, device='mps').sum().item()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ok = torch.mps._is_in_bad_fork() is True and torch._C._mps_is_in_bad_fork() is True\n"
        "    torch.manual_seed(3)  # what a DataLoader worker does\n"
        "    try:\n"
        "        torch.ones(3, device='mps')\n"
        "        ok = False\n"
        "    except RuntimeError as error:\n"
        "        ok = ok and 'fork' in str(error)\n"
        "    os._exit(0 if ok else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "assert torch.mps._is_in_bad_fork() is False\n"
    )


def test_bad_fork_is_not_told_in_a_child_forked_before_use(run_python):
    run_python(
        "import os, torch\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ok = torch.mps._is_in_bad_fork() is False and torch.ones(3, device='mps').sum().item() == 3\n"
        "    os._exit(0 if ok else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
    )


def test_core_count_of_the_host_adapter_is_the_cpus():
    import rivulet

    if rivulet.adapter().backend != "host":
        pytest.skip("another adapter")
    assert torch.backends.mps.get_core_count() == os.cpu_count()
    assert torch.backends.mps.get_name() == rivulet.adapter().name


def test_accelerator_finds_the_device_module():
    assert torch.get_device_module("mps") is torch.mps
    assert torch.get_device_module(torch.device("mps")) is torch.mps


def test_autocast_accepts_the_device():
    with torch.autocast("mps", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("mps")
        product = torch.ones(4, 4, device="mps") @ torch.ones(4, 4, device="mps")
    assert product.dtype == torch.bfloat16 and product[0, 0].item() == 4
