"""A worker process of `pool`: reads items as JSON lines, answers each with one."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path


def main() -> None:
    # Whatever a kernel prints goes to stderr; answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import torch

    from opinfo import items

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        item = items.Item(**json.loads(line))
        start = time.monotonic()
        result = items.run_item(item)
        result["seconds"] = round(time.monotonic() - start, 3)
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
