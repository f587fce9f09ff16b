"""Builds the native library for one installed PyTorch and puts it into the package.

Used by setup.py (wheels, editable installs) and by ./run. The library talks to PyTorch's C++ interfaces, which
change between minor versions, and to no Python ABI: so there is one file a PyTorch minor version, and none a Python
version.

    python build_native.py [--out DIR] [--torch-dir DIR]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


class BuildError(Exception):
    """The library could not be built; the text says what to do."""


def find_torch(torch_dir: str | os.PathLike[str] | None = None) -> Path:
    """The directory of the PyTorch to build for: the argument, RIVULET_TORCH_DIR, or the one importable here."""
    given = torch_dir or os.environ.get("RIVULET_TORCH_DIR")
    if given:
        path = Path(given).resolve()
        if not (path / "version.py").is_file():
            raise BuildError(f"RIVULET_TORCH_DIR={given}: there is no version.py; give the installed torch/ directory")
        return path
    # find_spec does not import torch, which would take seconds and load the very library that is being replaced.
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(
            "PyTorch is not installed for this Python, and the library is compiled for the PyTorch that you use. "
            "Install it first (pip install torch), then: pip install . --no-build-isolation"
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def torch_version(torch_dir: Path) -> str:
    """`major.minor` of the PyTorch in this directory."""
    text = (torch_dir / "version.py").read_text()
    found = re.search(r"__version__ = '(\d+)\.(\d+)", text)
    if not found:
        raise BuildError(f"{torch_dir / 'version.py'}: no version found in it")
    return f"{found[1]}.{found[2]}"


def build(out: Path, torch_dir: Path) -> Path:
    """Compiles the library for the PyTorch in `torch_dir` and returns where it was put under `out`."""
    version = torch_version(torch_dir)
    if shutil.which("cargo") is None:
        raise BuildError("cargo was not found: install Rust from https://rustup.rs and try again")
    # A directory for each PyTorch, or building for two in turn would compile everything every time.
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / f"torch-{version}"
    command = ["cargo", "build", "--release", "-p", "rivulet-torch", "--target-dir", str(target)]
    if (ROOT / "Cargo.lock").exists():
        command.append("--locked")
    env = dict(os.environ, RIVULET_TORCH_DIR=str(torch_dir))
    if sys.platform == "darwin":
        # For Rust and C++ alike; without it each takes a default of its own, and the linker warns of the difference.
        env.setdefault("MACOSX_DEPLOYMENT_TARGET", "13.0")
    done = subprocess.run(command, cwd=ROOT, env=env)
    if done.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` failed with exit code {done.returncode}; its output is above")
    out.mkdir(parents=True, exist_ok=True)
    library = out / f"librivulet_torch-{version}{SUFFIX}"
    # Replaced in one step: a process that has the old file open keeps it, and none sees half a file.
    fresh = library.with_suffix(library.suffix + ".new")
    shutil.copy2(target / "release" / f"librivulet_torch{SUFFIX}", fresh)
    fresh.replace(library)
    return library


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "python" / "rivulet" / "lib")
    parser.add_argument("--torch-dir")
    args = parser.parse_args()
    try:
        print(build(args.out, find_torch(args.torch_dir)))
    except BuildError as error:
        print(f"build_native.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
