"""Lines for people who set ``PYTORCH_MPS_DEBUG=1``; silent otherwise."""

from __future__ import annotations

import os
import sys


def enabled() -> bool:
    """Whether verbose logging was asked for. Read at each call: the variable may be set after start."""
    return os.environ.get("PYTORCH_MPS_DEBUG", "").strip() not in ("", "0")


def debug(text: str) -> None:
    """Writes one line to stderr where verbose logging is on."""
    if not enabled() or sys.stderr is None:
        return
    try:
        sys.stderr.write(f"[rivulet] {text}\n")
    except (OSError, ValueError):
        # A closed or broken stderr is no reason to fail an `import torch`.
        pass
