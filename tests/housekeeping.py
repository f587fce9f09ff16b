"""House rules that no compiler checks: where `unsafe` may stand, how long a file may be, what csrc may not do.

Prints each breach as FILE:LINE and exits with 1 when there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {".rs", ".cpp", ".h", ".py", ".pyi", ".wgsl", ".sh", ".toml", ".md"}
LONGEST = 800

# `unsafe` lives where drivers and other languages are talked to, and in the test harness that looks at raw memory.
UNSAFE_ALLOWED = (
    "crates/rivulet-hal/",
    "crates/rivulet-torch/src/ffi",
    "crates/rivulet-torch/src/python.rs",
    "crates/rivulet/tests/common/",
    "crates/rivulet-kernels/tests/gpu/",
)
# Registration happens at run time, after looking at what is there: a static initialiser runs while the library loads,
# where an error can only end the process. And a library neither prints nor exits.
CPP_FORBIDDEN = {
    r"\bTORCH_LIBRARY(_IMPL|_FRAGMENT)?\s*\(": "registers in a static initialiser",
    r"\bC10_REGISTER_\w+\s*\(|\bREGISTER_(ALLOCATOR|GENERATOR)\w*\s*\(": "registers in a static initialiser",
    r"\bstd::c(out|err)\b|\bprintf\s*\(": "prints",
    r"\b(std::)?(abort|exit|_exit|terminate)\s*\(": "ends the process",
    r"#include\s*[<\"]Python\.h": "depends on a Python version",
}
ANYWHERE_FORBIDDEN = {r"(?<![\w.])/(work|root|home/\w+)/\w": "names a path of one machine"}


def files() -> list[Path]:
    skipped = {"target", "build", "dist", "__pycache__", "results"}
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.suffix in SOURCES and not any(p in skipped or p.startswith(".") for p in parts) and path.is_file():
            found.append(path)
    return sorted(found)


def code_of(line: str, marker: str) -> str:
    return line.split(marker, 1)[0]


def breaches(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    if len(lines) > LONGEST and path.suffix in {".rs", ".cpp", ".h", ".py", ".wgsl"}:
        found.append(f"{name}:{LONGEST}: {len(lines)} lines; split the file (at most {LONGEST})")
    for number, line in enumerate(lines, 1):
        if path.suffix == ".rs" and name.startswith("crates/"):
            # Attributes such as deny(unsafe_op_in_unsafe_fn) name the word without using it.
            if re.search(r"\bunsafe\b(?!_)", code_of(line, "//")) and not name.startswith(UNSAFE_ALLOWED):
                found.append(f"{name}:{number}: unsafe outside rivulet-hal and the FFI modules")
        if path.suffix in {".cpp", ".h"} and name.startswith("csrc/"):
            for pattern, why in CPP_FORBIDDEN.items():
                if re.search(pattern, code_of(line, "//")):
                    found.append(f"{name}:{number}: {why}: {line.strip()}")
        for pattern, why in ANYWHERE_FORBIDDEN.items():
            if re.search(pattern, line) and name != "tests/housekeeping.py":
                found.append(f"{name}:{number}: {why}: {line.strip()}")
    return found


def missing_tests(page: Path, heading: str) -> list[str]:
    """Tests that the last column of the table under this heading names and that are nowhere."""
    name = page.relative_to(ROOT).as_posix()
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[-2] for line in section.splitlines() if line.startswith("|")]
    named = set(re.findall(r"`([a-z]\w*_\w+)`", " ".join(rows)))
    text = "\n".join(path.read_text(encoding="utf-8") for path in files() if path.suffix in {".rs", ".py"})
    tests = set(re.findall(r"#\[test\]\s+(?:#\[[^\]]*\]\s+)*fn (\w+)", text)) | set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
    if not named:
        return [f"{name}: no test is named under `{heading}`"]
    return [f"{name}: there is no test {one}" for one in sorted(named - tests)]


def main() -> int:
    looked_at = files()
    found = [breach for path in looked_at for breach in breaches(path)]
    found += missing_tests(ROOT / "docs" / "metal.md", "The crashes")
    for breach in found:
        print(breach)
    print(f"{len(looked_at)} files, {len(found)} breaches of the house rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
