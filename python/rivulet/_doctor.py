"""What the mps device runs on, how busy it is, and what to do when something is off.

Works in every state of an installation: without the library, without PyTorch, switched off.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from . import __version__, _environment, _load
from ._native import Native


class Report(dict[str, Any]):
    """The doctor's findings: a plain dictionary to programs, a page of text to people (``print``)."""

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def doctor(*, probe: bool = False) -> Report:
    """Examines the installation and the running device.

    Opens no adapter and takes no stream slot, so before a program has used mps there is little to tell of the
    runtime. With `probe` it runs one small operation first and checks its result, as the command line does.
    """
    report = Report(
        available=False,
        reason=None,
        advice=[],
        versions={"rivulet": __version__, "python": platform.python_version(), "platform": platform.platform()},
        adapter=None,
        adapters=[],
        probe=None,
        runtime={},
        fallbacks={},
        displaced=[],
        environment=_environment.survey(),
        patches=[],
    )
    advice: list[str] = report["advice"]
    loaded_by_torch = _import_torch(report)
    state = _load.ensure()
    if state.native is None:
        report["reason"] = state.reason if report["reason"] is None else report["reason"]
        advice.extend(filter(None, [state.advice]))
        if state.details:
            report["traceback"] = state.details
    else:
        if not loaded_by_torch:
            advice.append(_why_not_by_torch())
        _examine(report, state.native, probe)
    report["patches"] = [asdict(outcome) for outcome in state.patches]
    advice.extend(
        f"This PyTorch is not shaped as Rivulet expects, so a part stays as it is: {p['name']} ({p['note']})."
        for p in report["patches"]
        if p["state"] == "skipped"
    )
    advice.extend(
        f"{v['name']}={v['value']} is set, but {v['effect']}" for v in report["environment"] if v["state"] == "unknown"
    )
    return report


def _import_torch(report: Report) -> bool:
    """Imports PyTorch and notes its version; True where that alone has loaded us."""
    try:
        import torch
    except Exception as error:
        report["reason"] = f"PyTorch cannot be imported: {error}"
        report["versions"]["torch"] = None
        return False
    report["versions"]["torch"] = torch.__version__
    return _load.state.attempted


def _why_not_by_torch() -> str:
    if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "0":
        return (
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps `import torch` from loading Rivulet: unset it, or call "
            "rivulet.load() in the program."
        )
    from importlib.metadata import entry_points

    if not any(point.value.startswith("rivulet:") for point in entry_points(group="torch.backends")):
        return (
            "`import torch` does not load Rivulet because it is not installed as a package (it was found on the "
            "path): pip install it, or call rivulet.load() in the program."
        )
    return "`import torch` did not load Rivulet; call rivulet.load() in the program."


def _probe() -> str:
    import torch

    total = (torch.arange(1000, device="mps") + 1).sum().item()
    if total != 500500:
        raise RuntimeError(f"the sum of 1 to 1000 came out as {total}")
    return "1000 elements were added right"


def _examine(report: Report, native: Native, probe: bool) -> None:
    advice: list[str] = report["advice"]
    versions = report["versions"]
    versions["library"] = native.version()
    versions["library_path"] = native.path
    versions["library_built_for_torch"] = native.built_for()
    if versions["library"] != __version__:
        advice.append(
            f"The library is of Rivulet {versions['library']} and the Python package of {__version__}: build it again."
        )
    # Before anything that may fail: a kernel of another library may be why.
    report["displaced"] = _displaced(native, advice)
    if native.in_bad_fork():
        report["reason"] = "this process was forked after the device was used"
        advice.append("Start processes with the 'spawn' method, or fork before the first use of mps.")
        return
    report["reason"] = native.unavailable_reason()
    report["available"] = report["reason"] is None
    if probe and report["available"]:
        try:
            report["probe"] = _probe()
        except Exception as error:
            report["available"] = False
            report["reason"] = f"a first operation failed: {type(error).__name__}: {error}"
            advice.append("Run with PYTORCH_MPS_DEBUG=1 to see what the engine does before it fails.")
    parts: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("adapters", native.adapters),
        ("adapter", native.adapter),
        ("runtime", native.report),
        ("fallbacks", native.fallback_counts),
    )
    for key, read in parts:
        # One part that cannot be read must not hide the others.
        try:
            value: Any = read()
        except (RuntimeError, ValueError) as error:
            advice.append(f"{key} cannot be read: {error}")
            continue
        report[key] = value
    if report["fallbacks"]:
        most = max(report["fallbacks"], key=report["fallbacks"].__getitem__)
        advice.append(
            f"{len(report['fallbacks'])} ops ran on the CPU, most often {most}. They are correct but slow; "
            "PYTORCH_ENABLE_MPS_FALLBACK=0 turns them into errors."
        )


def _displaced(native: Native, advice: list[str]) -> list[dict[str, Any]]:
    """What others had registered for mps, looked for once more."""
    try:
        native.look_again(None)
        found = native.displaced()
    except RuntimeError as error:
        advice.append(f"what other libraries registered for mps cannot be read: {error}")
        return []
    advice.extend(
        f"{entry['name']} is written for PyTorch's own mps backend and cannot run beside Rivulet ({entry['from']}): "
        "use the CPU for it, or RIVULET_DISABLE=1 for the whole program."
        for entry in found
        if entry["later"] and entry["now"].startswith("refused")
    )
    return found


def _displaced_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    parts = {f"{e['part']} {e['key']}".strip(): e["now"] for e in found if e["part"] != "kernel"}
    kernels = Counter(e["now"] for e in found if e["part"] == "kernel" and not e["later"])
    parts.update({f"{count} kernels": now for now, count in kernels.most_common()})
    if parts:
        yield from _section("PyTorch's own mps backend, replaced by", parts)
    late = {f"{e['name']} ({e['key']})": f"{e['now']} instead of {e['from']}" for e in found if e["later"] and e["name"]}
    if late:
        yield from _section("Kernels of other libraries for mps, replaced by", late)


def _lines(report: Report) -> Iterator[str]:
    if report["available"]:
        name = (report["adapter"] or {}).get("name", "unknown adapter")
        yield f"mps is available, on {name}." + (f" Tried: {report['probe']}." if report["probe"] else "")
    else:
        yield f"mps is NOT available: {report['reason']}."
    if report["advice"]:
        yield ""
        yield "What to do"
        yield from (f"  - {line}" for line in report["advice"])
    yield from _section("Versions", report["versions"])
    if report["adapter"]:
        yield from _section("Adapter in use", report["adapter"])
    others = [entry for entry in report["adapters"] if entry != report["adapter"]]
    if others:
        yield from _section("Other adapters", {e.get("name", "?"): e.get("backend", "") for e in others})
    for title, value in report["runtime"].items():
        if title in ("adapter", "opened") or value in (None, [], {}):
            continue
        yield from _section(title.replace("_", " ").capitalize(), value)
    if report["available"] and report["runtime"].get("opened") is False:
        yield from _section("Runtime", "nothing of this process has used mps yet")
    if report["available"]:
        counts = sorted(report["fallbacks"].items(), key=lambda item: (-item[1], item[0]))
        yield from _section("Ops on the CPU path of a GPU", dict(counts) or "none")
    yield from _displaced_lines(report["displaced"])
    if report["environment"]:
        yield from _section(
            "Environment", {f"{v['name']}={v['value']}": f"{v['state']}: {v['effect']}" for v in report["environment"]}
        )
    if report["patches"]:
        yield from _section(
            "Changes to PyTorch",
            {p["name"]: f"{p['state']}: {p['note'] or p['why']}" for p in report["patches"]},
        )
    if report.get("traceback"):
        yield ""
        yield report["traceback"].rstrip()


def _section(title: str, value: Any) -> Iterator[str]:
    yield ""
    yield title
    yield from _indented(value, 2)


def _indented(value: Any, depth: int) -> Iterator[str]:
    pad = " " * depth
    if isinstance(value, dict):
        width = min(36, max((len(str(key)) for key in value), default=0))
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                yield f"{pad}{key}"
                yield from _indented(inner, depth + 2)
            else:
                yield f"{pad}{key:<{width}}  {_text(str(key), inner)}"
    elif isinstance(value, list):
        for inner in value[:_LISTED]:
            if isinstance(inner, dict):
                yield pad + ", ".join(f"{key} {_text(key, item)}" for key, item in inner.items())
            else:
                yield f"{pad}{inner}"
        if len(value) > _LISTED:
            yield f"{pad}and {len(value) - _LISTED} more (all with --json)"
    else:
        yield f"{pad}{value}"


_LISTED = 8
_BYTES = {
    "allocated",
    "reserved",
    "driver",
    "recommended_max",
    "peak_allocated",
    "peak_reserved",
    "adopted",
    "limit",
    "device_total",
}


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    in_bytes = key in _BYTES or key.endswith("_bytes") or key.startswith("max_")
    if in_bytes and isinstance(value, int):
        return (
            f"{value} bytes ({value / 2**20:.1f} MiB)" if value < 2**30 else f"{value} bytes ({value / 2**30:.1f} GiB)"
        )
    return str(value)
