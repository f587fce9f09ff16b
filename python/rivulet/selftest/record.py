"""The JSON of a run: what people send in. Described in ``docs/selftest.md``; a change of meaning raises `SCHEMA`."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from .runner import Options, PartResult, Result

#: Version of the format.
SCHEMA = 1


def verdict(parts: Sequence[PartResult], wanted: int) -> str:
    """ "passed", "failed", "incomplete" (nothing failed, but not everything was run) or "could not run"."""
    states = [part.state for part in parts]
    if any(part.vital_failure() for part in parts):
        return "could not run"
    if "failed" in states:
        return "failed"
    if not any(part.count("passed") for part in parts):
        return "could not run"
    if len(states) < wanted or set(states) != {"passed"}:
        return "incomplete"
    return "passed"


def fact(parts: Sequence[PartResult], name: str) -> Any:
    """The first fact of this name that a check has told."""
    for part in parts:
        for result in part.results:
            if name in result.facts:
                return result.facts[name]
    return None


def coverage(parts: Sequence[PartResult]) -> dict[str, Any]:
    """GPU kernels that the run has compiled, of all processes that came to their end."""
    every = [kernels for part in parts for kernels in part.kernels]
    if not every:
        return {}
    compiled = {entry["label"]: entry for kernels in every for entry in kernels["compiled"]}
    refused = {entry["label"]: entry for kernels in every for entry in kernels["refused"]}
    families = every[0]["families"]
    reached = {family: sum(entry["family"] == family for entry in compiled.values()) for family in families}
    ops = every[0]["pointwise_ops"]
    used = {entry["op"] for entry in compiled.values()}
    return {
        "kernels": len(compiled),
        "families": reached,
        "families_missing": [family for family, count in reached.items() if not count],
        "pointwise_ops": len(ops),
        "pointwise_ops_missing": [op for op in ops if op not in used],
        "refused": sorted(refused.values(), key=lambda entry: str(entry["label"])),
        "labels": sorted(compiled),
    }


def fallbacks(parts: Sequence[PartResult]) -> dict[str, int]:
    """Ops that ran on the CPU path of a GPU, with counts."""
    counts: dict[str, int] = {}
    for part in parts:
        for result in part.results:
            for op, count in result.facts.get("fallbacks", {}).items():
                counts[op] = counts.get(op, 0) + count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def record(parts: Sequence[PartResult], options: Options, names: Sequence[str], begun: float, seconds: float) -> dict[str, Any]:
    """Everything that is known of a run, as JSON values, without the home folder's name."""
    moment = datetime.datetime.fromtimestamp(begun, datetime.timezone.utc)
    doctor = fact(parts, "doctor") or {}
    made = {
        "schema": SCHEMA,
        "rivulet": __version__,
        "verdict": verdict(parts, len(names)),
        "begun": moment.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "options": {
            "minutes": options.minutes,
            "quick": options.quick,
            "seed": options.seed,
            "patience": options.patience,
            "parts": list(names),
        },
        "machine": fact(parts, "machine"),
        "adapter": doctor.get("adapter"),
        "versions": doctor.get("versions"),
        "doctor": doctor,
        "kernels": coverage(parts),
        "fallbacks": fallbacks(parts),
        "parts": [_part(part) for part in parts],
    }
    home = str(Path.home())
    return _without(made, home) if home not in ("", "/") else made


def _part(part: PartResult) -> dict[str, Any]:
    return {
        "name": part.part.name,
        "title": part.part.title,
        "state": part.state,
        "seconds": part.seconds,
        "passed": part.count("passed"),
        "failed": part.count("failed"),
        "not_here": part.count("not here"),
        "left_out": part.count("left out"),
        "broken": part.broken,
        "output": part.output,
        "checks": [_check(result) for result in part.results],
    }


def _check(result: Result) -> dict[str, Any]:
    made: dict[str, Any] = {"name": result.name, "outcome": result.outcome, "seconds": result.seconds}
    if result.group:
        made["group"] = result.group
    if result.message:
        made["message"] = result.message
    # The doctor's findings stand at the top.
    if facts := {key: value for key, value in result.facts.items() if key not in ("doctor", "machine")}:
        made["facts"] = facts
    if result.output:
        made["output"] = result.output
    return made


def _without(value: Any, home: str) -> Any:
    if isinstance(value, str):
        return value.replace(home + os.sep, "~" + os.sep)
    if isinstance(value, dict):
        return {key: _without(inner, home) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, home) for inner in value]
    return value
