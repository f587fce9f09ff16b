"""``python -m rivulet doctor [--json]``, ``python -m rivulet selftest``; ``rivulet …`` is the same where it is installed."""

from __future__ import annotations

import argparse
import json
import os
import sys

from .selftest import command


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and gives its exit status: the doctor's is 0 where the device is available, 1 where it is not; for
    the selftest's see its help."""
    parser = argparse.ArgumentParser(prog="python -m rivulet", description="PyTorch's mps device, thread-parallel.")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="show what the mps device runs on, and what to do if it does not")
    doctor.add_argument("--json", action="store_true", help="the same as JSON")
    test = commands.add_parser(
        "selftest",
        help="test in minutes whether the device is right on this machine",
        epilog="Exit status: 0 all passed, 1 something failed, 2 not everything could be run.",
    )
    command.add_arguments(test)
    options = parser.parse_args(arguments)
    if options.command == "selftest":
        return command.main(options)

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
