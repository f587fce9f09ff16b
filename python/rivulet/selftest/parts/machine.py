"""What is here: versions, the adapter and its limits, and whether the very first operations work."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from pathlib import Path
from typing import Any

import rivulet
import torch

from ..crew import THREADS, crew
from ..registry import Check, Context, Failed, NotHere


def checks(context: Context) -> list[Check]:
    return [
        Check("the installation", _installation, vital=True),
        Check("the machine", _machine),
        Check("a first operation", _first_operation, vital=True),
        Check("the adapter that was asked for", _asked_for),
        Check(f"{THREADS} threads have streams of their own", _streams),
    ]


def _installation(context: Context) -> None:
    report = dict(rivulet.doctor(probe=True))
    context.facts["doctor"] = {key: value for key, value in report.items() if key != "probe"}
    if not report["available"]:
        raise Failed(f"mps is not available: {report['reason']}")
    versions = report["versions"]
    if versions["library"] != versions["rivulet"]:
        raise Failed(f"the library is of Rivulet {versions['library']}, the package of {versions['rivulet']}")


def _line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def _machine(context: Context) -> None:
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
        "cpu": platform.processor(),
    }
    if platform.system() == "Darwin":
        facts["system"] = f"macOS {platform.mac_ver()[0]}"
        facts["cpu"] = _line(["sysctl", "-n", "machdep.cpu.brand_string"]) or facts["cpu"]
        facts["model"] = _line(["sysctl", "-n", "hw.model"])
    else:
        try:
            found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
            facts["cpu"] = found[0].split(":", 1)[1].strip() if found else facts["cpu"]
        except OSError:
            pass
    context.facts["machine"] = facts


def _first_operation(context: Context) -> None:
    x = torch.arange(1000, device="mps")
    total = (x + 1).sum().item()
    if x.device.type != "mps" or total != 500500:
        raise Failed(f"the sum of 1 to 1000 came out as {total} on {x.device}")
    torch.mps.synchronize()
    runtime = rivulet.doctor()["runtime"]
    context.facts["queues"] = runtime.get("queues")
    if runtime.get("failure"):
        raise Failed(f"the device says {runtime['failure']}")


def _asked_for(context: Context) -> None:
    asked = os.environ.get("RIVULET_ADAPTER")
    if asked in (None, "", "auto"):
        raise NotHere("RIVULET_ADAPTER leaves the choice")
    adapter, adapters = rivulet.adapter(), rivulet.adapters()
    if asked == "host":
        right = adapter.backend == "host"
    elif asked.isdecimal() and int(asked) < len(adapters):
        right = adapter.name == adapters[int(asked)].name
    else:
        right = asked.lower() in adapter.name.lower()
    if not right:
        raise Failed(f"RIVULET_ADAPTER={asked}, but {adapter.name} ({adapter.backend}) is in use")


def _streams(context: Context) -> None:
    pool = rivulet.doctor()["runtime"]["pool"]
    count = min(THREADS, pool["size"] - 1)
    together = threading.Barrier(count)

    def stream(index: int) -> int:
        value = torch.full((4,), float(index), device="mps").sum().item()
        if value != 4 * index:
            raise Failed(f"thread {index} got {value} instead of {4 * index}")
        number: int = torch.mps.current_stream().stream_id
        together.wait(context.wait)
        return number

    numbers = crew(count, stream)
    context.facts["streams"] = count
    if len(set(numbers)) != count:
        raise Failed(f"{count} threads share {len(set(numbers))} streams: {sorted(numbers)}")
