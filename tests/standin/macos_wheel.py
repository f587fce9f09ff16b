"""What can be read, without a Mac, of PyTorch's wheel for macOS: its libraries carry the names of all their functions.

    pip download torch==2.11.0 --no-deps --only-binary=:all: --platform macosx_14_0_arm64 --python-version 3.11
    unzip torch-2.11.0-*.whl 'torch/lib/lib*.dylib' -d FOLDER

    python macos_wheel.py kernels FOLDER            what its own mps backend has kernels for: the text of kernels-*.txt
    python macos_wheel.py calls FOLDER              functions outside of that backend that call into it by name, and so
                                                    past the dispatcher
    python macos_wheel.py symbols FOLDER LIBRARY    what a native library of Rivulet, built on Linux, wants of PyTorch and
                                                    the wheel's libraries do not export

Run it with a PyTorch of the wheel's version. Needs llvm-nm and c++filt, and numpy for the calls.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import torch

KEYS = ("MPS", "SparseMPS", "SparseCsrMPS")


def shell(command: str) -> str:
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, stdout=subprocess.PIPE, text=True).stdout


def library(folder: Path, name: str) -> str:
    return shlex.quote(str(folder / "torch" / "lib" / f"lib{name}.dylib"))


def functions(folder: Path) -> list[tuple[int, str]]:
    """Address and name of each function of libtorch_cpu, in order."""
    text = shell(f"llvm-nm --defined-only -n {library(folder, 'torch_cpu')} | c++filt -_")
    return [(int(at, 16), name) for at, name in re.findall(r"^([0-9a-f]{16}) [tT] (.*)$", text, re.MULTILINE)]


def wrappers_of(key: str, op: str) -> set[str]:
    """How the code that PyTorch generates may name the wrapper of an op's kernel."""
    base, _, overload = op.partition(".")
    plain, structured = f"wrapper_{key}_{overload}_{base}", f"wrapper_{key}_{base}"
    named = structured + (f"_{overload}" if overload else "")
    return {plain, f"{plain}_out", named, f"{structured}_out_{overload}"}


def kernels(folder: Path) -> None:
    found = set(re.findall(rf"\bwrapper_(?:{'|'.join(KEYS)})_\w+", "\n".join(name for _, name in functions(folder))))
    ops = sorted(n.removeprefix("aten::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::"))
    lines, used = [], set()
    for key in KEYS:
        for op in ops:
            if match := wrappers_of(key, op) & found:
                used |= match
                lines.append(f"{key} {op}")
    if left := found - used:
        sys.exit(f"no op for {sorted(left)}")
    version = torch.__version__.partition("+")[0]
    print(f"# What the mps backend of PyTorch {version}'s wheel for macOS (arm64) has kernels for: key and op. Written by")
    print("# macos_wheel.py, from the names of the wrappers in libtorch_cpu.dylib.")
    print("\n".join(lines))


#: Where the backend's own functions end, whose calls to each other say nothing.
BACKEND = re.compile(r"(?<!sta)mps|MPS|_block_invoke|MetalShader|_sub_I_\w+\.mm")
#: As such parts, but with a name.
SHARED = re.compile(r"\.cold\.\d|_if_cuda_or_mps_input")
#: Wrappers that the dispatcher alone calls.
GLUE = re.compile(r"TORCH_LIBRARY_IMPL_init|wrap_kernel_functor_unboxed_|make_boxed_from_unboxed|::structured_\w+::set_output")


def calls(folder: Path) -> None:
    import numpy

    path = folder / "torch" / "lib" / "libtorch_cpu.dylib"
    header = shell(f"llvm-objdump --macho --private-headers {shlex.quote(str(path))} | grep -A 5 'sectname __text'")
    at, size, offset = (int(re.search(rf"{field} (\w+)", header)[1], 0) for field in ("addr", "size", "offset"))  # type: ignore[index]
    words = numpy.fromfile(path, dtype="<u4", offset=offset, count=size // 4)
    # B and BL: six bits of code, then the distance in words.
    places = numpy.nonzero(((words >> 26) & 0b011111) == 0b000101)[0]
    distance = (words[places] & 0x3FFFFFF).astype(numpy.int64)
    distance -= (distance & (1 << 25)) << 1
    known = functions(folder)
    starts = numpy.array([start for start, _ in known])
    callers = numpy.searchsorted(starts, at + places * 4, side="right") - 1
    targets = at + (places + distance) * 4
    callees = numpy.searchsorted(starts, targets, side="right") - 1
    # Anywhere but at its start it is a part without a name, shared by functions that have nothing to do with each other.
    whole = starts[callees] == targets
    callers, callees = callers[whole], callees[whole]
    edges = defaultdict(set)
    for caller, callee in set(zip(callers.tolist(), callees.tolist())):
        source, target = known[caller][1], known[callee][1]
        inside = BACKEND.search(source) or GLUE.search(source)
        if BACKEND.search(target) and not SHARED.search(target) and not inside:
            edges[source].add(target)
    callers_of = Counter(target for targets in edges.values() for target in targets)
    # What so many call is code of no backend, which the linker has folded into one and given one of the names.
    folded = {target for target, count in callers_of.items() if count > 40}
    for source in sorted(source for source in edges if edges[source] - folded):
        edges[source] -= folded
        print(source)
        for target in sorted(edges[source]):
            print("    ", target)


def plain(symbols: str) -> set[str]:
    """Names without what differs between the systems' libraries of C++."""
    text = subprocess.run(["c++filt"], input=symbols, check=True, stdout=subprocess.PIPE, text=True).stdout
    for pattern, name in (
        (r"std::__(1|cxx11)::", "std::"),
        (r"\[abi:cxx11\]", ""),
        (r"long long", "long"),
        (r", std::allocator<[^<>]*(<[^<>]*>)?[^<>]*> ?>", ">"),
        (r" >", ">"),
    ):
        text = re.sub(pattern, name, text)
    return set(text.splitlines())


def symbols(folder: Path, own: Path) -> None:
    def names(command: str) -> set[str]:
        return {line.split()[-1].split("@")[0] for line in shell(command).splitlines()}

    here = Path(torch.__file__).parent / "lib"
    wanted = names(f"nm -D --undefined-only {shlex.quote(str(own))}")
    linux = set().union(*(names(f"nm -D --defined-only {shlex.quote(str(here / f'lib{n}.so'))}") for n in ("torch_cpu", "c10")))
    mac = set()
    for name in ("torch_cpu", "c10", "torch_python"):
        mac |= {n.removeprefix("_") for n in names(f"llvm-nm --extern-only --defined-only {library(folder, name)}")}
    needed = plain("\n".join(sorted(wanted & linux)))
    missing = needed - plain("\n".join(sorted(mac)))
    # Of x86-64 alone; and what is the C++ library's own.
    missing = {name for name in missing if not name.endswith(("::AVX2", "::AVX512")) and not name.startswith("std::")}
    print(f"{len(needed)} symbols of PyTorch, {len(missing)} of them not exported on macOS:")
    print("\n".join(sorted(missing)))


if __name__ == "__main__":
    {"kernels": kernels, "calls": calls, "symbols": symbols}[sys.argv[1]](*map(Path, sys.argv[2:]))
