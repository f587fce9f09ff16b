"""What the Python tests share: threads whose errors are not lost, and scripts in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

# Started in the background, as some runners do, a process ignores Ctrl-C, and so would every process that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    import torch

    state = "available" if torch.backends.mps.is_available() else "NOT available: see `python -m rivulet doctor`"
    return f"torch {torch.__version__}, mps {state}"


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any of the device's settings, plus `extra`."""
    ours = ("MPS_", "PYTORCH_MPS_", "PYTORCH_ENABLE_MPS_", "RIVULET_")
    return {**{k: v for k, v in os.environ.items() if not k.startswith(ours)}, **(extra or {})}


RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_python() -> RunPython:
    """`run_python(code, *args, env={}, timeout=120, check=True)` runs a script in a fresh interpreter.

    It gets none of the device's environment variables but those in `env`, and no standard input. With `check` (the
    default) the exit code must be 0; the assertion shows what the script printed.
    """

    def run(
        code: str, *args: str, env: dict[str, str] | None = None, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", code, *args],
            env=clean_environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture
def in_threads() -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """`in_threads(n, body)` runs body(0) .. body(n - 1) at once, each on a thread of its own.

    All start together. Returns the results in order; the first error is raised after all have ended.
    """

    from rivulet.selftest.crew import crew

    return crew
