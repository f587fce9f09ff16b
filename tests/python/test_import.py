"""`import torch` with Rivulet installed: silent, never broken by us, and with a reason where the device is off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rivulet import _load, _native

PACKAGE = Path(_load.__file__).resolve().parent

AVAILABLE = "import torch; print(torch.backends.mps.is_available())"
REASON = """
import torch, rivulet
assert torch.ones(2).sum().item() == 2
assert not torch.backends.mps.is_available() and not torch.mps.is_available()
report = rivulet.doctor()
assert report["available"] is False and report["advice"], report
print(report["reason"])
"""


def compile_library(directory: Path, source: str) -> Path:
    path = directory / ("broken" + _load.SUFFIX)
    code = directory / "broken.c"
    code.write_text(source)
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    assert compiler, "a C compiler is needed, as for the library itself"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, code], check=True)
    return path


def stub_source(built_for: str, register: str = "return 0;") -> str:
    """A library with every name that the package binds, and nothing behind them."""
    special = {
        "rivulet_torch_built_for": f'const char *rivulet_torch_built_for(void) {{ return "{built_for}"; }}',
        "rivulet_torch_register": f"int rivulet_torch_register(int a) {{ {register} }}",
        "rivulet_last_error": 'const char *rivulet_last_error(void) { return "no room at the inn"; }',
    }
    return "\n".join(special.get(name, f"long {name}(void) {{ return 0; }}") for name in _native.SIGNATURES)


def test_import_prints_nothing(run_python):
    done = run_python("import torch; torch.zeros(1, device='mps')")
    assert (done.stdout, done.stderr) == ("", "")


def test_import_makes_the_device_available(run_python):
    assert run_python(AVAILABLE).stdout == "True\n"


def test_importing_the_package_imports_neither_torch_nor_the_library(run_python):
    run_python("import sys, rivulet; assert 'torch' not in sys.modules and 'rivulet._native' not in sys.modules")


def test_every_public_name_of_the_package_is_there(run_python):
    run_python("import rivulet\nfor name in rivulet.__all__: getattr(rivulet, name)")


def test_unknown_name_of_the_package_is_an_attribute_error():
    import rivulet

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rivulet.nonsense


def test_disabled_by_variable(run_python):
    done = run_python(REASON, env={"RIVULET_DISABLE": "1"})
    assert done.stdout == "RIVULET_DISABLE=1 switches Rivulet off\n" and done.stderr == ""


def test_disabled_leaves_pytorch_as_it_was(run_python):
    run_python(
        "import torch\n"
        "assert torch._C._has_mps is False\n"
        "assert torch.mps.Event.record.__module__ == 'torch.mps.event'\n"
        "assert not hasattr(torch._C, '_mps_get_name') and not hasattr(torch.mps, 'release_current_thread_slot')\n",
        env={"RIVULET_DISABLE": "1"},
    )


def test_enabled_by_zero(run_python):
    assert run_python(AVAILABLE, env={"RIVULET_DISABLE": "0"}).stdout == "True\n"


@pytest.mark.parametrize(
    ("name", "allowed"), [("RIVULET_DISABLE", "0 and 1"), ("RIVULET_ACCELERATOR", "auto, mps and cuda")]
)
def test_bad_value_of_a_switch_is_named(run_python, name, allowed):
    done = run_python(REASON, env={name: "maybe"})
    assert f"{name}=maybe" in done.stdout and allowed in done.stdout


def test_missing_library_file(run_python, tmp_path):
    path = tmp_path / "nowhere.so"
    done = run_python(REASON, env={"RIVULET_LIBRARY": str(path)})
    assert f"RIVULET_LIBRARY={path}" in done.stdout and done.stderr == ""


def test_library_that_is_no_library(run_python, tmp_path):
    path = tmp_path / "text.so"
    path.write_text("this is no library")
    done = run_python(REASON, env={"RIVULET_LIBRARY": str(path)})
    assert f"cannot load {path}" in done.stdout and done.stderr == ""


def test_library_of_somebody_else(run_python, tmp_path):
    path = compile_library(tmp_path, "int something_else(void) { return 1; }")
    done = run_python(REASON, env={"RIVULET_LIBRARY": str(path)})
    assert "not a library of this Rivulet" in done.stdout and "rivulet_version" in done.stdout


def test_library_built_for_another_torch(run_python, tmp_path):
    path = compile_library(tmp_path, stub_source("2.0.1"))
    done = run_python(REASON, env={"RIVULET_LIBRARY": str(path)})
    assert "was built for torch 2.0.1, but this is torch" in done.stdout


def test_library_that_cannot_register(run_python, tmp_path):
    import torch

    path = compile_library(tmp_path, stub_source(torch.__version__, "return 1;"))
    done = run_python(REASON, env={"RIVULET_LIBRARY": str(path)})
    assert done.stdout == "no room at the inn\n"


def test_torch_without_a_library_of_its_version(run_python, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "rivulet", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    (tmp_path / "rivulet" / "lib").mkdir()
    (tmp_path / "rivulet" / "lib" / f"librivulet_torch-1.2{_load.SUFFIX}").write_text("")
    done = run_python(REASON, env={"PYTHONPATH": str(tmp_path)})
    assert "no native library for torch" in done.stdout and "only for 1.2" in done.stdout and done.stderr == ""


def test_broken_module_of_the_package_does_not_break_torch(run_python, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "rivulet", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    (tmp_path / "rivulet" / "_load.py").write_text("this is no Python")
    done = run_python(AVAILABLE, env={"PYTHONPATH": str(tmp_path)})
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_error_while_loading_does_not_break_torch(run_python, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "rivulet", ignore=shutil.ignore_patterns("lib", "__pycache__"))
    with open(tmp_path / "rivulet" / "_native.py", "a") as file:
        file.write("\nNative.__init__ = lambda self, path: 1 / 0\n")
    library = _load.find_library(_load.torch_minor(__import__("torch").__version__))
    done = run_python(REASON, env={"PYTHONPATH": str(tmp_path), "RIVULET_LIBRARY": str(library)})
    assert "ZeroDivisionError" in done.stdout and done.stderr == ""


def test_python_without_gil_is_refused(run_python):
    done = run_python("import sys\nsys._is_gil_enabled = lambda: False" + REASON)
    assert "without the GIL" in done.stdout and done.stderr == ""


def test_registering_twice_is_an_error_and_not_an_exit(run_python):
    run_python(
        "import torch\n"
        "from rivulet import _load, _native\n"
        "try:\n"
        "    _load.native().register(0)\n"
        "except _native.LibraryError as error:\n"
        "    assert 'already' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('registered twice')\n"
        "assert torch.ones(2, device='mps').sum().item() == 2\n"
    )


def test_loading_again_changes_nothing(run_python):
    run_python(
        "import torch, rivulet\n"
        "before = torch.mps.Event, torch.UntypedStorage.__new__, torch._TorchCompileInductorWrapper.__call__\n"
        "rivulet.load(); rivulet._autoload()\n"
        "from rivulet import _load, _patch\n"
        "states = {o.name: o.state for o in _patch.apply_all(_load.native())}\n"
        "assert set(states.values()) == {'present'}, states\n"
        "after = torch.mps.Event, torch.UntypedStorage.__new__, torch._TorchCompileInductorWrapper.__call__\n"
        "assert before == after\n"
    )


def test_no_patch_is_skipped_on_this_torch(run_python):
    run_python(
        "import rivulet\n"
        "patches = rivulet.doctor()['patches']\n"
        "assert len(patches) > 10\n"
        "skipped = [p for p in patches if p['state'] == 'skipped']\n"
        "assert not skipped, skipped\n"
    )


def test_loading_by_hand_where_autoload_is_off(run_python):
    done = run_python(
        "import torch\n"
        "print(torch.backends.mps.is_built())\n"
        "import rivulet\n"
        "rivulet.load()\n"
        "print(torch.backends.mps.is_available(), torch.ones(3, device='mps').sum().item())\n",
        env={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )
    assert done.stdout == "False\nTrue 3.0\n"


def test_loading_after_mps_was_asked_for_says_so(run_python):
    """PyTorch makes the object that answers for mps once, at the first question."""
    done = run_python(
        "import torch, rivulet\n"
        "assert not torch.backends.mps.is_available()\n"
        "try:\n"
        "    rivulet.load()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n",
        env={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )
    assert "mps was used before rivulet was loaded" in done.stdout and "before anything asks for mps" in done.stdout


def test_package_functions_raise_the_reason(run_python):
    done = run_python(
        "import rivulet\n"
        "counts = rivulet.fallback_counts, rivulet.reset_fallback_counts\n"
        "for f in (rivulet.adapters, rivulet.adapter, *counts, rivulet.load):\n"
        "    try:\n"
        "        f()\n"
        "    except RuntimeError as error:\n"
        "        assert 'RIVULET_DISABLE=1' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(f)\n",
        env={"RIVULET_DISABLE": "1"},
    )
    assert done.stderr == ""


def test_debug_variable_logs_to_stderr(run_python):
    done = run_python("import torch", env={"PYTORCH_MPS_DEBUG": "1"})
    assert done.stdout == "" and "[rivulet]" in done.stderr and "registered with torch" in done.stderr


def test_two_threads_importing_at_once(run_python):
    run_python(
        "import threading\n"
        "def work(): import torch; assert torch.backends.mps.is_available()\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "import torch; assert torch.ones(2, device='mps').sum().item() == 2\n"
    )


@pytest.mark.slow
def test_cost_of_import_is_recorded(record_property):
    def seconds(disable: str) -> float:
        code = "import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)"
        env = {"RIVULET_DISABLE": disable, "PATH": "/usr/bin:/bin"}
        runs = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True) for _ in range(4)]
        return min(float(run.stdout) for run in runs)

    started = time.monotonic()
    ratio = seconds("0") / seconds("1")
    record_property("import_torch_with_over_without", round(ratio, 3))
    print(json.dumps({"import_torch_with_over_without": round(ratio, 3), "seconds": round(time.monotonic() - started)}))
    assert ratio > 0
