"""The full sweep: `./run exec python tests/python/opinfo` writes its table into benchmarks/results.

Options choose a part; `--print` shows failures only and writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(ROOT / "benchmarks")]

import record  # noqa: E402
from opinfo import items  # noqa: E402
from opinfo.pool import Pool  # noqa: E402


def summary(results: dict[items.Item, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts of entries by task and status."""
    table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for item, result in results.items():
        row = table[item.task]
        row[items.status(item, result)] += 1
        for count in ("samples", "exact", "random", "raised_alike", "by_rule"):
            row[count] += result[count]
    return {task: dict(row) for task, row in table.items()}


COLUMNS = ("samples", "exact", "random", "raised_alike", "by_rule", "fallbacks")


def places(results: dict[items.Item, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By task, the entries that ran without a fallback, and what fell back in the others; only those that passed."""
    table: dict[str, dict[str, Any]] = {}
    for item, result in sorted(results.items(), key=lambda pair: pair[0].entry):
        if items.status(item, result) != "pass":
            continue
        row = table.setdefault(item.task, {"native": [], "fell_back": {}})
        if result["fallbacks"]:
            row["fell_back"][item.entry] = [name.removeprefix("aten::") for name in result["fell_back"]]
        else:
            row["native"].append(item.entry)
    return table


def read_table(path: Path) -> tuple[dict[str, Any], dict[items.Item, dict[str, Any]]]:
    """What write_table() wrote, and the results in it."""
    table = json.loads(path.read_text(encoding="utf-8"))
    nothing = {"errors": [], "fell_back": [], **dict.fromkeys(("passed", *COLUMNS), 0)}
    results = {}
    for item in items.all_items():
        row = table["entries"].get(item.entry, {}).get(item.task)
        if row is None:
            continue
        if isinstance(row, list):
            row = dict(zip(table["columns"], row))
            row["passed"] = row["samples"]
            names = table.get(f"places, {item.task}", {"fell_back": {}})["fell_back"].get(item.entry, [])
            row["fell_back"] = [f"aten::{name}" for name in names]
        results[item] = {**nothing, **row}
    return table, results


def write_table(
    path: Path, results: dict[items.Item, dict[str, Any]], seconds: float, onto: dict[str, Any] | None
) -> None:
    """A passing item is a row of COLUMNS; any other an object that says what it is. `onto` is the table of the runs
    before this one that some of the results are of."""
    entries: dict[str, dict[str, Any]] = defaultdict(dict)
    for item, result in results.items():
        state = items.status(item, result)
        row = [result[column] for column in COLUMNS]
        entries[item.entry][item.task] = (
            row if state == "pass" else {"status": state, **{k: v for k, v in result.items() if v and k != "seconds"}}
        )
    adapter = record.adapter()
    run = {
        "command": shlex.join(["./run", "exec", "python", "tests/python/opinfo", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": record.machine(),
        "commit": record.commit(),
        "versions": record.versions(),
        "adapter": adapter,
        "seconds": round(seconds),
    }
    # The newest run is the table's own, and says what those before it were.
    before = [] if onto is None else [*onto.get("before", []), {key: onto[key] for key in run}]
    table = {
        **run,
        **({"before": before} if before else {}),
        "columns": COLUMNS,
        "meaning": {
            "samples": "samples run; in a row all of them passed",
            "exact": "of these, results equal to the CPU's bit by bit",
            "random": "of these, judged by form, seed and distribution",
            "raised_alike": "of these, refused by the CPU and by mps with an error of the same type",
            "by_rule": "of these, unlike the CPU's and judged by the entry's rule in tests/python/opinfo/rules.py",
            "fallbacks": "ops of the item that ran on the CPU path of a GPU adapter; on the host adapter every op runs "
            "on PyTorch's CPU kernel and none is counted",
            "not on cpu": "the CPU refuses every sample, and mps does the same",
            "places": "on a GPU adapter, by task: how many entries ran natively, without one fallback, and how many "
            "did not, with their names and the ops that fell back",
        },
        "summary": summary(results),
        "expected_failures": items.expected_failures(),
    }
    sections = {"entries": dict(sorted(entries.items()))}
    if adapter["backend"] != "host":
        ran = places(results)
        counts = {task: {state: len(names) for state, names in row.items()} for task, row in ran.items()}
        sections = {
            "places": counts,
            **{f"places, {task}": row for task, row in ran.items()},
            **sections,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(table, sections), encoding="utf-8")


def lines(table: dict[str, Any], sections: dict[str, dict[str, Any]]) -> str:
    """JSON of `table` indented, and of `sections` with a line for each of their members."""
    text = json.dumps(table, indent=1)[:-2]
    for name, section in sections.items():
        rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in section.items())
        text += f",\n {json.dumps(name)}: {{\n{rows}\n }}"
    return text + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="opinfo", description=__doc__)
    parser.add_argument("--shard", default="all", help='"all" or "i/n"')
    parser.add_argument("--entries", default="*", help="shell patterns of entries, separated by commas")
    parser.add_argument("--tasks", default="*", help="shell patterns of tasks, separated by commas: forward:*,gradients")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--print", action="store_true", help="show failures and the summary, write no table")
    parser.add_argument("--here", action="store_true", help="run in this process, for a debugger")
    parser.add_argument("--out", type=Path, help="where the table goes")
    parser.add_argument("--onto", type=Path, help="a table of this device and PyTorch; items run now replace its own")
    args = parser.parse_args()
    chosen = items.select(args.shard, args.entries, args.tasks)
    onto, earlier = read_table(args.onto) if args.onto else (None, {})
    for what, now in (("adapter", record.adapter()), ("versions", record.versions())):
        if onto is not None and onto[what] != now:
            parser.error(f"--onto {args.onto}: it has {what} {onto[what]}, this run {now}")
    start = time.monotonic()
    results: dict[items.Item, dict[str, Any]] = {}
    pool = None if args.here else Pool(chosen, args.workers)
    try:
        source = ((item, items.run_item(item)) for item in chosen) if pool is None else pool.as_completed()
        for number, (item, result) in enumerate(source, 1):
            results[item] = result
            if items.status(item, result) in items.BAD:
                print(f"{items.status(item, result).upper()} {item.name}: {result['passed']} of {result['samples']} samples", flush=True)
                for error in result["errors"]:
                    print(f"    {error}", flush=True)
            if number % 500 == 0:
                print(f"{number} of {len(chosen)} items after {time.monotonic() - start:.0f} s", flush=True)
    finally:
        if pool is not None:
            pool.close()
    results = {item: results[item] for item in chosen}
    for task, row in summary(results).items():
        print(f"{task:<28}" + "  ".join(f"{key} {row[key]}" for key in row))
    seconds = time.monotonic() - start
    print(f"{len(results)} items in {seconds:.0f} s")
    if not args.print:
        where = record.adapter()["backend"]
        out = args.out or ROOT / "benchmarks" / "results" / f"opinfo-{where}-{datetime.date.today().isoformat()}.json"
        write_table(out, {**earlier, **results}, seconds, onto)
    return 1 if any(items.status(item, result) in items.BAD for item, result in results.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
