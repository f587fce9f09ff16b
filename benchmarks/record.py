"""What every benchmark shares: paired timing, and a file that says what was measured, where, and on which commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def timed(body: Callable[[], object], calls: int) -> float:
    """Seconds for a call, over `calls` calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        body()
    return (time.perf_counter() - start) / calls


def calls_for(body: Callable[[], object], seconds: float) -> int:
    """How many calls take about `seconds`."""
    body()
    once = timed(body, 3)
    return max(1, int(seconds / max(once, 1e-7)))


def paired(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Samples of two measurements taken in turn, the order swapped every round, so that drift hits both alike."""
    ones: list[float] = []
    twos: list[float] = []
    for index in range(rounds):
        if index % 2:
            twos.append(second())
            ones.append(first())
        else:
            ones.append(first())
            twos.append(second())
    return ones, twos


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median of the pairs' ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators))


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor() or "unknown"


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    import rivulet
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rivulet": rivulet.__version__,
        "rustc": _first_line(["rustc", "--version"]),
    }


def commit() -> dict[str, Any]:
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    return {"hash": _first_line(["git", "rev-parse", "HEAD"]), "uncommitted_changes": bool(changed.strip())}


def keep(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Writes rows, with the machine, commit and versions, where a path is given."""
    if path:
        result = {"machine": machine(), "commit": commit(), "versions": versions(), "rows": rows}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def adapter() -> Any:
    import rivulet

    found = rivulet.adapter()
    return getattr(found, "__dict__", None) or str(found)


def write(name: str, measures: list[dict[str, Any]], place: dict[str, Any], started: float) -> Path:
    """Writes one run into benchmarks/results and returns the file. `place` is machine() as it was before the run."""
    moment = datetime.datetime.fromtimestamp(started, datetime.timezone.utc)
    found = versions()
    record = {
        "benchmark": name,
        "command": shlex.join(["./run", "bench", *sys.argv[1:]]),
        "started": moment.isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "machine": place,
        "commit": commit(),
        "versions": found,
        "adapter": adapter(),
        "measures": measures,
    }
    RESULTS.mkdir(exist_ok=True)
    torch = found["torch"].split("+")[0]
    path = RESULTS / f"{moment:%Y-%m-%d-%H%M%S}-{name}-torch{torch}.json"
    path.write_text(json.dumps(record, indent=1, default=str) + "\n")
    return path
