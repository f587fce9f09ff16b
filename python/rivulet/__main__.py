"""``python -m rivulet doctor [--json]``."""

from __future__ import annotations

import argparse
import json
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 where the device is available, 1 where it is not."""
    parser = argparse.ArgumentParser(prog="python -m rivulet", description="PyTorch's mps device, thread-parallel.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="show what the mps device runs on, and what to do if it does not")
    doctor.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse_args(arguments)

    from ._doctor import doctor as examine

    report = examine(probe=True)
    try:
        print(json.dumps(report, indent=2) if options.json else report, flush=True)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report["available"] else 1


if __name__ == "__main__":
    sys.exit(main())
