"""Builds the stand-ins of tests/standin for the PyTorch of this Python, once for each state of their sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).resolve().parent.parent / "standin"
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"

#: What the scripts of the tests begin with: `standin`, `late` load the libraries, `calls` tells what was reached.
PRELUDE = """
import ctypes, os, sys

PARTS = ("hooks", "allocator", "guard", "fallback", "kernel")

def standin():
    global _in_tree
    _in_tree = ctypes.CDLL(os.environ["STANDIN_IN_TREE"])
    _in_tree.standin_calls.restype = ctypes.c_uint64
    for name in ("standin_members", "standin_refused", "standin_draw"):
        getattr(_in_tree, name).restype = ctypes.c_char_p
    return _in_tree

def late():
    global _late
    _late = ctypes.CDLL(os.environ["STANDIN_LATE"])
    return _late

def calls():
    return {part: _in_tree.standin_calls(part.encode()) for part in PARTS}

def assert_unreached():
    assert not any(calls().values()), _in_tree.standin_members().decode()

def assert_late_unreached():
    _late.late_calls.restype = ctypes.c_uint64
    assert _late.late_calls() == 0
"""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")


def build(name: str) -> Path:
    """The shared library of one source file."""
    package = Path(torch.__file__).parent
    # Of the newest version that is not newer than this PyTorch.
    kernels = SOURCES / f"kernels-{'2.15' if TORCH >= (2, 15) else '2.11'}.txt"
    sources = [kernels, SOURCES / "calls.h", SOURCES / f"{name}.cpp"]
    command = [
        str(compiler()), "-O1", "-shared", "-fPIC", "-std=c++20", "-fvisibility=hidden",
        "-isystem", str(package / "include"), "-isystem", str(package / "include/torch/csrc/api/include"),
        f'-DSTANDIN_KERNELS="{kernels}"',
        str(sources[-1]), f"-L{package / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{package / 'lib'}",
    ]  # fmt: skip
    state = hashlib.sha256("\0".join([torch.__version__, *command, *(s.read_text() for s in sources)]).encode())
    folder = Path(tempfile.gettempdir()) / f"rivulet-standin-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{name}-{state.hexdigest()[:16]}{SUFFIX}"
    if not library.exists():
        fresh = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(fresh)], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        # In one step: tests of another process may build the same.
        fresh.replace(library)
    return library
