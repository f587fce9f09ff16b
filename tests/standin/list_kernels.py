"""Writes kernels.txt: the ops that PyTorch's own mps backend has kernels for, from a wheel for macOS.

    pip download torch==2.11.0 --no-deps --only-binary=:all: --platform macosx_14_0_arm64
    unzip -o torch-2.11.0-*.whl torch/lib/libtorch_cpu.dylib
    llvm-nm --defined-only torch/lib/libtorch_cpu.dylib | c++filt -_ > symbols.txt
    python tests/standin/list_kernels.py symbols.txt > kernels.txt

Run it with a PyTorch of the same version, whose ops the wrappers' names are matched with; fails where one is left over.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

KEYS = ("MPS", "SparseMPS", "SparseCsrMPS")


def wrappers_of(key: str, op: str) -> set[str]:
    """How the code that PyTorch generates may name the wrapper of an op's kernel."""
    base, _, overload = op.partition(".")
    plain, structured = f"wrapper_{key}_{overload}_{base}", f"wrapper_{key}_{base}"
    return {
        plain,
        f"{plain}_out",
        structured + (f"_{overload}" if overload else ""),
        f"{structured}_out_{overload}",
    }


def main(symbols: Path) -> None:
    found = set(re.findall(rf"\bwrapper_(?:{'|'.join(KEYS)})_\w+", symbols.read_text(errors="replace")))
    ops = [name.removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    lines, used = [], set()
    for key in KEYS:
        for op in sorted(ops):
            if match := wrappers_of(key, op) & found:
                used |= match
                lines.append(f"{key} {op}")
    if left := found - used:
        sys.exit(f"no op for {sorted(left)}")
    print(f"# What the mps backend of PyTorch {torch.__version__.partition('+')[0]}'s wheel for macOS (arm64) registers kernels for: key and op. Read from the names of")
    print("# the wrappers in libtorch_cpu.dylib by list_kernels.py.")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
