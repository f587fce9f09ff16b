"""The command line of the selftest, and what it returns."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import record, report, runner
from .registry import PARTS, Part

#: Exit status by verdict: 0 where all that was asked for ran and passed, 1 where something failed, 2 otherwise.
STATUS = {"passed": 0, "failed": 1, "incomplete": 2, "could not run": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="time for all parts together (5)")
    parser.add_argument("--quick", action="store_true", help="fewer checks and rounds: about half a minute where nothing else runs")
    parser.add_argument(
        "--part", action="append", choices=[part.name for part in PARTS], metavar="NAME",
        help="only this part; may be given again: " + ", ".join(part.name for part in PARTS),
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go (rivulet-selftest-….json here)")
    parser.add_argument("--seed", type=int, default=0, help="of operands and orders (0)")
    parser.add_argument("--adapter", help="which adapter to test, as RIVULET_ADAPTER names it")
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="SECONDS",
        help="silence after which a check counts as one that hangs (60)",
    )  # fmt: skip


def selected(names: Sequence[str] | None) -> list[Part]:
    """The parts of these names in their order; the machine's facts are always asked for."""
    return [part for part in PARTS if not names or part.name in names or part.name == "machine"]


def main(options: argparse.Namespace, parts: Sequence[Part] | None = None) -> int:
    """Runs the parts, prints the page and writes the JSON. See :data:`STATUS` for what it returns."""
    minutes = options.minutes
    if not minutes > 0 or not options.patience > 0:
        print(f"--minutes is {minutes:g} and --patience {options.patience:g}: both must be above 0", file=sys.stderr)
        return 2
    if options.json is not None:
        try:
            options.json.touch()
        except OSError as error:
            print(f"--json: {options.json} cannot be written: {error.strerror}", file=sys.stderr)
            return 2
    asked = runner.Options(minutes, options.quick, options.seed, options.patience, options.adapter)
    parts = selected(options.part) if parts is None else parts
    line = _Progress()
    begun, clock = time.time(), time.monotonic()
    found: list[runner.PartResult] = []
    try:
        for part in runner.run(parts, asked, line.show):
            found.append(part)
    except KeyboardInterrupt:
        pass
    finally:
        line.clear()
    names = [part.name for part in parts]
    made = record.record(found, asked, names, begun, time.monotonic() - clock)
    path = _write(made, options.json)
    try:
        print(report.page(made))
        print(report.last_line(made, str(path)), flush=True)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return STATUS[made["verdict"]]


def _write(made: dict[str, Any], path: Path | None) -> Path:
    """Where nothing is named, into the present folder, or one for temporary files where that cannot be written."""
    text = json.dumps(made, indent=1) + "\n"
    if path is not None:
        path.write_text(text, encoding="utf-8")
        return path
    adapter = re.sub(r"[^a-z0-9]+", "-", (made["adapter"] or {}).get("name", "no adapter").lower()).strip("-")
    moment = re.sub(r"[^0-9]", "", made["begun"])[:14]
    name = f"rivulet-selftest-{adapter[:40]}-{moment}.json"
    try:
        path = Path.cwd() / name
        path.write_text(text, encoding="utf-8")
    except OSError:
        path = Path(tempfile.gettempdir()) / name
        path.write_text(text, encoding="utf-8")
    return path


class _Progress:
    """One line on a terminal that says what runs; nothing where stderr goes elsewhere."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._on:
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
