"""The process that runs one part: ``python -m rivulet.selftest.child '{"module": …}'``.

Tells its parent over a pipe what it is about to do and what came of it, a line of JSON each, so that the parent knows the
check's name whatever becomes of this process:

    {"event": "plan", "checks": [[name, group, vital], …]}
    {"event": "begin", "index": 3}              and "progress" from checks that take long
    {"event": "end", "index": 3, "outcome": "passed", "seconds": 0.1, "message": "", "facts": {…}}
    {"event": "over", "index": 7}               the time ended before check 7
    {"event": "done", "kernels": {…}}
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from typing import Any

from .registry import Check, Context, Failed, NotHere, Part


class Line:
    """The pipe to the parent. A write of one line at a time, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._last = 0.0

    def tell(self, event: str, **more: Any) -> None:
        text = json.dumps({"event": event, **more}, default=str)
        with self._lock:
            print(text, file=self._file, flush=True)

    def progress(self) -> None:
        now = time.monotonic()
        if now - self._last > 1:
            self._last = now
            self.tell("progress")


def judge(check: Check, context: Context) -> tuple[str, str]:
    """Runs a check: "passed", "failed" or "not here", and the reason."""
    context.facts.clear()
    try:
        check.run(context)
    except NotHere as reason:
        return "not here", str(reason)
    except Failed as found:
        return "failed", str(found)
    except Exception as error:
        where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
        text = " ".join(str(error).split())[:1500]
        return "failed", f"{type(error).__name__}: {text} (in {' < '.join(reversed(where))})"
    return "passed", ""


def main(text: str) -> int:
    asked = json.loads(text)
    line = Line(asked["descriptor"])
    context = Context(
        quick=asked["quick"],
        seed=asked["seed"],
        deadline=time.monotonic() + asked["seconds"],
        patience=asked["patience"],
        on_progress=line.progress,
    )
    import torch

    from .. import _load

    # Also where no entry point loads it, such as in a copy of the package on the path.
    state = _load.ensure()
    if state.native is None:
        raise SystemExit(f"Rivulet is not available: {state.reason}. {state.advice or ''}")
    torch.manual_seed(context.seed)
    part = Part(asked["part"], "", 1, asked["module"])
    checks = part.checks(context)
    line.tell("plan", checks=[[check.name, check.group, check.vital] for check in checks])
    for index in range(asked["first"], len(checks)):
        # One check always runs, however short the time: it may be what the person asked for.
        if context.left() <= 0 and index > asked["first"]:
            line.tell("over", index=index)
            break
        line.tell("begin", index=index)
        begun = time.monotonic()
        outcome, message = judge(checks[index], context)
        seconds = round(time.monotonic() - begun, 3)
        line.tell("end", index=index, outcome=outcome, seconds=seconds, message=message, facts=dict(context.facts))
    line.tell("done", kernels=state.native.kernels())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
