"""The page for people, from the record of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

#: Failures that are shown in full; all are in the JSON.
_SHOWN = 25
_WIDTH = 118


def page(record: dict[str, Any]) -> str:
    """Everything but the last line, which says where the JSON lies."""
    return "\n".join(_lines(record)) + "\n"


def last_line(record: dict[str, Any], path: str) -> str:
    """What it comes to, and what to send."""
    counts = {key: sum(part[key] for part in record["parts"]) for key in ("passed", "failed", "left_out")}
    where = f"The whole is in {path}: send that file in, with this page (docs/selftest.md says where)."
    if record["verdict"] == "failed":
        return f"FAILED: {counts['failed']} of {counts['passed'] + counts['failed']} checks. {where}"
    if record["verdict"] == "passed":
        return f"PASSED: {counts['passed']} checks. {where}"
    if record["verdict"] == "incomplete":
        return f"INCOMPLETE: {counts['passed']} checks passed, none failed, not all were run. {where}"
    return f"COULD NOT RUN. {where}"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    options, adapter, versions = record["options"], record["adapter"] or {}, record["versions"] or {}
    machine = record["machine"] or {}
    size = "quick" if options["quick"] else f"{options['minutes']:g} minutes"
    yield f"Rivulet selftest {record['rivulet']}, {record['begun']}, {size}, seed {options['seed']}, {record['seconds']} s"
    if adapter:
        memory = "memory shared with the CPU" if adapter.get("unified_memory") else "memory of its own"
        yield f"  device   {adapter.get('name')} ({adapter.get('backend')}; {adapter.get('driver')}), {memory}"
    if machine:
        yield (
            f"  machine  {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']} "
            f"{machine['architecture']}" + (f", {machine['model']}" if machine.get("model") else "")
        )
    if versions:
        yield f"  versions torch {versions.get('torch')}, Python {versions.get('python')}, {versions.get('platform')}"
    yield ""
    yield f"{'part':<12}{'':<44}{'state':<14}{'passed':>7}{'failed':>8}{'left out':>10}{'seconds':>9}"
    for part in record["parts"]:
        yield (
            f"{part['name']:<12}{part['title']:<44}{part['state']:<14}{part['passed']:>7}{part['failed']:>8}"
            f"{part['left_out']:>10}{part['seconds']:>9.1f}"
        )
    for name in options["parts"]:
        if name not in [part["name"] for part in record["parts"]]:
            yield f"{name:<12}{'':<44}{'not run':<14}"
    yield from _kernels(record)
    yield from _benchmark(record)
    yield from _notes(record)
    yield from _broken(record)
    yield from _failures(record)


def _kernels(record: dict[str, Any]) -> Iterator[str]:
    part = next((part for part in record["parts"] if part["name"] == "kernels"), None)
    if part is not None and part["checks"]:
        yield ""
        yield "Ops beside the CPU, by table and element type: passed of all"
        yield from _matrix(part["checks"])
        ran = [check for check in part["checks"] if check["outcome"] in ("passed", "failed")]
        fell = [check for check in ran if check.get("facts", {}).get("fallbacks")]
        if (record["adapter"] or {}).get("backend") == "host":
            yield f"  {len(ran)} cases ran on PyTorch's CPU kernels, which are the host adapter's own."
        else:
            yield f"  {len(ran) - len(fell)} of {len(ran)} cases ran on the device's kernels alone, {len(fell)} on the CPU in part."
    counts = record["fallbacks"]
    if counts:
        named = ", ".join(f"{op} {count}" for op, count in list(counts.items())[:12])
        yield from _wrapped(f"  Ops on the CPU path, with calls: {named}" + (", …" if len(counts) > 12 else ""))
    kernels = record["kernels"]
    if kernels and kernels["kernels"]:
        families, missing = kernels["families"], kernels["families_missing"]
        yield ""
        yield (
            f"Kernels: {kernels['kernels']} compiled, of {len(families) - len(missing)} of {len(families)} families, "
            f"{kernels['pointwise_ops'] - len(kernels['pointwise_ops_missing'])} of {kernels['pointwise_ops']} pointwise ops"
        )
        yield from _wrapped("  " + ", ".join(f"{family} {count}" for family, count in families.items() if count))
        # What a few checks do not reach says nothing.
        whole = part is not None and not record["options"]["quick"]
        if missing and whole:
            yield from _wrapped(f"  families not reached: {', '.join(missing)}")
        if kernels["pointwise_ops_missing"] and whole:
            yield from _wrapped(f"  pointwise ops not reached: {', '.join(kernels['pointwise_ops_missing'])}")
        for entry in kernels["refused"]:
            yield from _wrapped(f"  REFUSED by the driver's compiler: {entry['label']}: {entry['error']}")


def _matrix(checks: list[dict[str, Any]]) -> Iterator[str]:
    table: dict[str, dict[str, list[int]]] = {}
    for check in checks:
        family, _, dtype = check.get("group", "").rpartition(" ")
        if dtype not in _DTYPES:
            family, dtype = check.get("group", ""), "other"
        cell = table.setdefault(family, {}).setdefault(dtype, [0, 0])
        cell[0] += check["outcome"] == "passed"
        cell[1] += 1
    columns = [dtype for dtype in (*_DTYPES, "other") if any(dtype in row for row in table.values())]
    yield "  " + f"{'':<22}" + "".join(f"{dtype:>10}" for dtype in columns)
    for family, row in table.items():
        cells = [f"{row[d][0]}/{row[d][1]}" if d in row else "" for d in columns]
        yield "  " + f"{family:<22}" + "".join(f"{cell:>10}" for cell in cells)


_DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def _benchmark(record: dict[str, Any]) -> Iterator[str]:
    rows = [
        (check["name"], check["facts"]["rates"])
        for part in record["parts"]
        for check in part["checks"]
        if "rates" in check.get("facts", {})
    ]
    if not rows:
        return
    counts = sorted({row["threads"] for _, rates in rows for row in rates})
    yield ""
    yield "Calls a second on mps, and of the same on CPU tensors as a ratio (above 1: mps is faster), by threads"
    yield f"  {'':<32}" + "".join(f"{count:>20}" for count in counts)
    for name, rates in rows:
        cells = {row["threads"]: f"{row['mps']:.5g}/s  {row['mps'] / row['cpu']:.2f}" for row in rates}
        yield f"  {name:<32}" + "".join(f"{cells.get(count, ''):>20}" for count in counts)


def _notes(record: dict[str, Any]) -> Iterator[str]:
    notes = []
    for part in record["parts"]:
        for check in part["checks"]:
            if note := check.get("facts", {}).get("note"):
                notes.append(f"{part['name']}, {check['name']}: {note}")
            if check["outcome"] == "not here":
                notes.append(f"{part['name']}, {check['name']}: says nothing here, {check.get('message', '')}")
    if notes:
        yield ""
        yield "Notes"
        for note in notes:
            yield from _wrapped(f"  {note}")


def _broken(record: dict[str, Any]) -> Iterator[str]:
    left = [part for part in record["parts"] if part["broken"] or part["left_out"]]
    if left:
        yield ""
        yield "Not run"
    for part in left:
        if part["broken"]:
            yield from _wrapped(f"  {part['name']}: {part['broken']}")
            yield from (f"    | {line}" for line in part["output"].splitlines()[-12:])
        names = [check["name"] for check in part["checks"] if check["outcome"] == "left out"]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            yield from _wrapped(f"  {part['name']}, no time for {len(names)}: {'; '.join(names[:5])}{more}")


def _failures(record: dict[str, Any]) -> Iterator[str]:
    failed = [(part, check) for part in record["parts"] for check in part["checks"] if check["outcome"] == "failed"]
    if failed:
        yield ""
        yield "Failed"
    for part, check in failed[:_SHOWN]:
        yield from _wrapped(f"  {part['name']}, {check['name']}: {check.get('message', '')}")
        yield from (f"    | {line}" for line in check.get("output", "").splitlines()[-12:])
    if len(failed) > _SHOWN:
        yield f"  and {len(failed) - _SHOWN} more, in the JSON"


def _wrapped(text: str) -> list[str]:
    pad = len(text) - len(text.lstrip())
    return textwrap.wrap(
        text.strip(), _WIDTH, initial_indent=" " * pad, subsequent_indent=" " * (pad + 2), break_on_hyphens=False
    )
