"""`python -m rivulet doctor`: true in every state of an installation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import clean_environment
from rivulet import Adapter, _doctor, _environment


def run_doctor(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "rivulet", "doctor", *arguments],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def findings():
    done = run_doctor("--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_healthy_installation_exits_with_zero():
    done = run_doctor()
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("mps is available, on ")
    assert "What to do" not in done.stdout


def test_text_has_every_part():
    text = run_doctor(env={"MPS_STREAM_POOL_SIZE": "16"}).stdout
    for title in (
        "Versions",
        "Adapter in use",
        "Pool",
        "Memory",
        "Ops on the CPU path",
        "Environment",
        "Changes to PyTorch",
    ):
        assert f"\n{title}" in text, f"{title} is missing in\n{text}"


def test_versions_are_those_of_this_process(findings):
    import platform

    import rivulet

    versions = findings["versions"]
    assert versions["torch"] == torch.__version__
    assert versions["python"] == platform.python_version()
    assert versions["rivulet"] == versions["library"] == rivulet.__version__
    assert versions["library_built_for_torch"].split(".")[:2] == torch.__version__.split(".")[:2]


def test_adapter_is_one_of_the_adapters(findings):
    assert findings["adapter"]["name"]
    assert findings["adapter"]["name"] in [entry["name"] for entry in findings["adapters"]]
    assert findings["adapter"]["queues"] >= 1


def test_pool_size_follows_its_variable():
    report = json.loads(run_doctor("--json", env={"MPS_STREAM_POOL_SIZE": "16"}).stdout)
    assert report["runtime"]["pool"]["size"] == 16


def test_asking_takes_no_slot_and_opens_no_work():
    code = "import rivulet, torch\nrivulet.doctor()\nassert rivulet.doctor()['runtime'] == {'opened': False}\n"
    subprocess.run([sys.executable, "-c", code], check=True, env=clean_environment())


def test_memory_and_pool_move_with_use(run_python):
    run_python(
        "import rivulet, threading, torch\n"
        "x = torch.ones(1 << 20, device='mps')\n"
        "def work():\n"
        "    x.sum().item()\n"
        "    runtime = rivulet.doctor()['runtime']\n"
        "    assert runtime['memory']['allocated'] >= 4 << 20, runtime\n"
        "    slots = [(slot['stream'], slot['name']) for slot in runtime['pool']['used']]\n"
        "    found.append(slots)\n"
        "found = []\n"
        "t = threading.Thread(target=work); t.start(); t.join()\n"
        "assert len(found[0]) == 1 and found[0][0][0] == 1, found\n"
        "assert rivulet.doctor()['runtime']['pool']['used'] == []\n"
    )


def test_bad_value_of_a_pool_variable_is_told():
    done = run_doctor(env={"MPS_STREAM_POOL_SIZE": "many"})
    assert done.returncode == 1, done.stdout
    assert "MPS_STREAM_POOL_SIZE" in done.stdout.splitlines()[0] and "many" in done.stdout.splitlines()[0]


def test_bad_adapter_is_told():
    done = run_doctor(env={"RIVULET_ADAPTER": "abacus"})
    assert done.returncode == 1, done.stdout
    assert "RIVULET_ADAPTER" in done.stdout.splitlines()[0] and "abacus" in done.stdout.splitlines()[0]


def test_variables_in_force_and_without_effect_and_misspelt():
    found = {
        v["name"]: v["state"]
        for v in _environment.survey(
            {
                "MPS_POOL_SHARE": "1",
                "PYTORCH_MPS_FAST_MATH": "1",
                "MPS_POOL_SHARED": "1",
                "RIVULET_TORCH": "2.15.0",
                "PATH": "",
            }
        )
    }
    assert found == {"MPS_POOL_SHARE": "read", "PYTORCH_MPS_FAST_MATH": "no effect", "MPS_POOL_SHARED": "unknown"}


def test_misspelt_variable_is_told():
    done = run_doctor(env={"MPS_POOL_TIMEOUT": "5"})
    assert done.returncode == 0
    assert "MPS_POOL_TIMEOUT=5 is set, but nothing reads it" in done.stdout


def test_unavailable_exits_with_one_and_says_what_to_do():
    done = run_doctor(env={"RIVULET_DISABLE": "1"})
    assert done.returncode == 1
    assert done.stdout.startswith("mps is NOT available: RIVULET_DISABLE=1")
    assert "What to do\n  - Unset RIVULET_DISABLE" in done.stdout


def test_missing_library_is_told(tmp_path):
    done = run_doctor("--json", env={"RIVULET_LIBRARY": str(tmp_path / "none.so")})
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert "no such file" in report["reason"] and "RIVULET_LIBRARY" in report["advice"][0]


def test_switched_off_autoload_is_told():
    done = run_doctor(env={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert done.returncode == 0 and "TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps" in done.stdout


def test_works_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    done = run_doctor(env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "no torch here" in done.stdout and "Install torch" in done.stdout


def test_skipped_patch_becomes_advice(monkeypatch):
    from rivulet import _load, _patch

    outcome = _patch.Outcome("torch.mps.Event", "why", "2.0", "skipped", "has warp, which is unknown")
    monkeypatch.setattr(_load.state, "patches", [outcome])
    report = _doctor.doctor()
    assert any("torch.mps.Event (has warp, which is unknown)" in line for line in report["advice"])


def test_one_unreadable_part_does_not_hide_the_others(monkeypatch):
    from rivulet import _load

    def broken():
        raise RuntimeError("the counters are out")

    torch.ones(1, device="mps")
    monkeypatch.setattr(_load.native(), "fallback_counts", broken)
    report = _doctor.doctor()
    assert report["available"] and report["runtime"]["memory"]
    assert "fallbacks cannot be read: the counters are out" in report["advice"]


def test_device_that_computes_wrongly_is_told(monkeypatch):
    monkeypatch.setattr(torch, "arange", lambda count, **options: torch.ones(count, **options))
    report = _doctor.doctor(probe=True)
    assert not report["available"] and "the sum of 1 to 1000 came out as 2000" in report["reason"]


def test_device_that_fails_is_told(monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no more current")

    monkeypatch.setattr(torch, "arange", broken)
    report = _doctor.doctor(probe=True)
    assert str(report).startswith("mps is NOT available: a first operation failed: RuntimeError: no more current")


def test_long_lists_are_cut_in_the_text():
    for _ in range(12):
        torch.mps.Stream()
    report = _doctor.doctor()
    assert len(report["runtime"]["streams"]) > 12
    assert " more (all with --json)" in str(report)


def test_reader_that_closes_early_is_no_error():
    command = f"{sys.executable} -m rivulet doctor | head -1"
    done = subprocess.run(command, shell=True, env=clean_environment(), capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("mps is available") and done.stderr == ""


def test_unknown_command_is_a_usage_error():
    done = subprocess.run([sys.executable, "-m", "rivulet", "surgeon"], capture_output=True, text=True)
    assert done.returncode == 2 and "surgeon" in done.stderr


def test_report_is_a_dictionary_that_prints_as_text():
    report = _doctor.doctor()
    assert json.loads(json.dumps(report)) == report
    assert str(report).startswith("mps is available")


def test_adapter_reads_as_object_and_mapping():
    adapter = Adapter.from_json({"name": "a", "queues": 2, "wave_size": 32})
    assert adapter.name == adapter["name"] == "a" and adapter["wave_size"] == 32 and adapter.extra == {"wave_size": 32}
    assert dict(adapter)["queues"] == 2 and set(adapter) >= {"name", "wave_size"} and len(adapter) == len(dict(adapter))
    with pytest.raises(KeyError):
        adapter["nonsense"]


def test_adapters_of_this_machine():
    import rivulet

    everything = rivulet.adapters()
    assert rivulet.adapter() in everything
    assert all(a.name and a.backend in ("host", "vulkan", "metal", "sim") for a in everything)


def test_fallback_counts_are_empty_on_the_host_adapter_and_can_be_reset():
    import rivulet

    torch.ones(3, device="mps").cumsum(0)
    counts = rivulet.fallback_counts()
    if rivulet.adapter().backend == "host":
        assert counts == {}
    assert all(isinstance(k, str) and isinstance(v, int) and v > 0 for k, v in counts.items())
    rivulet.reset_fallback_counts()
    assert rivulet.fallback_counts() == {}


def test_knows_every_variable_that_the_engine_reads():
    config = Path(__file__).parents[2] / "crates" / "rivulet" / "src" / "config.rs"
    names = re.findall(r'^pub const \w+: &str = "((?:MPS|RIVULET)_\w+)";', config.read_text(), re.MULTILINE)
    assert len(names) >= 10
    assert [name for name in names if name not in _environment.IN_FORCE] == []
