"""`pip install . --no-build-isolation` gives a package that PyTorch finds by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MINOR = ".".join(torch.__version__.split(".")[:2])

pytestmark = pytest.mark.slow


def run(command: list[str], **kwargs) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)])
    [path] = folder.glob("*.whl")
    return path


@pytest.mark.timeout(1500)
def test_wheel_is_for_one_platform_and_every_python(wheel):
    name, _, python, abi, platform = wheel.stem.split("-")
    assert (name, python, abi) == ("rivulet", "py3", "none")
    assert platform == sysconfig.get_platform().replace("-", "_").replace(".", "_")


def test_wheel_holds_the_library_of_this_torch_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA")]
        [entry_points] = [archive.read(n).decode() for n in names if n.endswith(".dist-info/entry_points.txt")]
    libraries = [Path(name) for name in names if Path(name).suffix in {".so", ".dylib"}]
    assert [path.stem for path in libraries] == [f"librivulet_torch-{MINOR}"]
    assert "rivulet/py.typed" in names and "rivulet/selftest/parts/kernels.py" in names
    assert f"Requires-Dist: torch=={MINOR}.*" in metadata
    assert "[torch.backends]\nrivulet = rivulet:_autoload" in entry_points
    assert "[console_scripts]\nrivulet = rivulet.__main__:main" in entry_points
    assert not any(name.startswith(("tests/", "demo/", "crates/")) for name in names)


@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="needs nm")
def test_library_asks_for_no_python(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".so")]
        library = archive.extract(name, tmp_path)
    wanted = run(["nm", "-D", "--undefined-only", library]).stdout.split()
    assert "malloc" in {symbol.split("@")[0] for symbol in wanted}
    assert [symbol for symbol in wanted if symbol.startswith(("Py", "_Py"))] == []


SCRIPT = """
import sys, torch
assert "rivulet" in sys.modules, "import torch did not load it"
assert sys.modules["rivulet"].__file__.startswith(sys.prefix), sys.modules["rivulet"].__file__
a = torch.arange(6.0, device="mps")
assert (a + a).tolist() == [0, 2, 4, 6, 8, 10]
print("alive")
"""


def test_installed_wheel_comes_alive_with_import_torch(wheel, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    # The new environment sees this one's PyTorch, but its own Rivulet comes first on the path.
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    (own / "torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--ignore-installed", str(wheel)])
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    assert run([python, "-c", SCRIPT], cwd=tmp_path, env=env).stdout == "alive\n"
    # What a first user runs.
    command = [str(tmp_path / "venv" / "bin" / "rivulet"), "selftest", "--quick", "--part", "patterns", "--json", "x.json"]
    assert "\nPASSED: " in run(command, cwd=tmp_path, env=env).stdout
    made = json.loads((tmp_path / "x.json").read_text())
    assert made["versions"]["library_path"].startswith(str(own))
