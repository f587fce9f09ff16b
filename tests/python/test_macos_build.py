"""What a Mac builds with, as far as another system can tell: the branch for macOS of the build, and the hosted workflow."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "macos.yml"

# Stands where cargo does: notes how it was called, and leaves what cargo would have built.
CARGO = """#!{python}
import json, os, pathlib, sys
target = pathlib.Path(sys.argv[sys.argv.index("--target-dir") + 1]) / "release"
target.mkdir(parents=True)
(target / "librivulet_torch.dylib").write_bytes(b"a library")
note = {{"arguments": sys.argv[1:], "deployment": os.environ.get("MACOSX_DEPLOYMENT_TARGET"),
        "torch": os.environ["RIVULET_TORCH_DIR"]}}
pathlib.Path(os.environ["NOTE"]).write_text(json.dumps(note))
"""

# The build itself, in an interpreter that takes the machine for a Mac with Apple's chip.
BUILD = """
import sys, sysconfig
sys.platform = "darwin"
sysconfig.get_platform = lambda: "macosx-13.0-arm64"
sys.path.insert(0, {root!r})
sys.argv = ["build_native.py", "--out", {out!r}, "--torch-dir", {torch!r}]
import build_native
raise SystemExit(build_native.main())
"""


def build(tmp_path: Path, env: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "version.py").write_text("__version__ = '2.11.0'\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cargo").write_text(CARGO.format(python=sys.executable))
    (tools / "cargo").chmod(0o755)
    note = tmp_path / "note.json"
    code = BUILD.format(root=str(ROOT), out=str(tmp_path / "out"), torch=str(folder))
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    fresh = {k: v for k, v in os.environ.items() if k not in ("MACOSX_DEPLOYMENT_TARGET", "RIVULET_TORCH_DIR")}
    env = {**fresh, "PATH": path, "NOTE": str(note), "CARGO_TARGET_DIR": str(tmp_path / "target"), **env}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    return done, json.loads(note.read_text()) if note.exists() else {}


def test_a_mac_builds_a_dylib_for_macos_13_and_this_torch(tmp_path: Path) -> None:
    done, note = build(tmp_path, {})
    assert done.returncode == 0, done.stderr
    library = tmp_path / "out" / "librivulet_torch-2.11.dylib"
    assert done.stdout == f"{library}\n" and library.read_bytes() == b"a library"
    assert sorted(path.name for path in library.parent.iterdir()) == [library.name]
    assert note["deployment"] == "13.0"
    assert note["torch"] == str(tmp_path / "torch")
    assert note["arguments"][:4] == ["build", "--release", "-p", "rivulet-torch"] and "--locked" in note["arguments"]


def test_a_deployment_target_that_is_given_stays(tmp_path: Path) -> None:
    assert build(tmp_path, {"MACOSX_DEPLOYMENT_TARGET": "14.2"})[1]["deployment"] == "14.2"


def test_without_cargo_the_build_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    done, note = build(tmp_path, {"PATH": str(tmp_path / "nothing")})
    assert done.returncode == 1 and not note
    assert "https://rustup.rs" in done.stderr


def steps() -> list[dict[str, Any]]:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands() -> list[str]:
    """The commands of all steps, lines that go on put together."""
    text = "\n".join(step["run"] for step in steps() if "run" in step)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines()]


def test_the_workflow_is_one_that_github_takes() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(checker, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in steps():
        if "run" in step:
            parsed = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True, timeout=60)
            assert parsed.returncode == 0, f"{step['run']}\n{parsed.stderr}"


def test_the_workflow_names_what_is_there() -> None:
    crates = {path.parent.name: path.parent for path in ROOT.glob("crates/*/Cargo.toml")}
    seen = set()
    for line in commands():
        words = shlex.split(line, comments=True) if not re.search(r"<<|'END'", line) else line.split()
        for flag, word in zip(words, words[1:]):
            if flag == "-p" and "cargo" in words:
                assert word in crates, line
                seen.add(word)
        if "cargo" in words and "test" in words:
            crate = crates[words[words.index("-p") + 1]]
            for flag, word in zip(words, words[1:]):
                if flag == "--test":
                    assert (crate / "tests" / f"{word}.rs").exists() or (crate / "tests" / word / "main.rs").exists(), line
                    seen.add(word)
        for word in words:
            if word.startswith(("tests/", "crates/")) and "*" not in word:
                assert (ROOT / word).exists(), line
                seen.add(word)
    assert {"rivulet-hal", "metal_model", "variants", "tests/python/test_guide.py"} <= seen, seen


def test_the_workflow_runs_under_metals_own_checks_and_ends_with_the_selftest() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["env"]["MTL_DEBUG_LAYER"] == "1" and workflow["env"]["MTL_SHADER_VALIDATION"] == "1"
    [job] = workflow["jobs"].values()
    assert job["runs-on"].startswith("macos-")
    assert any("rivulet selftest" in line for line in commands())
    assert WORKFLOW.read_text().startswith("# Not yet run")
