"""Runs one block of the user guide in this process, unchanged: python run_block.py HEADING."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from blocks import AFTERWARDS, OPEN_NAMES, blocks  # noqa: E402


def same_as_cpu(seen: list) -> None:
    """Each call that was seen gives on the CPU, with the same weights and input, the same result."""
    import torch

    assert seen, "no module ran"
    for module, x, y in seen:
        assert y.device.type == "mps", y.device
        weights = [None if p is None else p.detach().cpu() for p in (module.weight, module.bias)]
        torch.testing.assert_close(y.detach().cpu(), torch.nn.functional.linear(x.detach().cpu(), *weights))


def in_threads(count: int, body) -> list:
    """Results of body(0) .. body(count - 1), each on a thread of its own; the first error is raised."""
    results: list = [None] * count
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = body(index)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def main() -> None:
    heading = sys.argv[1]
    [block] = [b for b in blocks() if b.language == "python" and b.heading == heading]
    # An exception on one of the block's own threads would otherwise only be printed.
    died: list = []
    threading.excepthook = died.append

    namespace: dict = {"__name__": "__main__"}
    exec(compile(OPEN_NAMES[heading], "open names", "exec"), namespace)

    # torch is imported for the hook alone; what the block imports is left to the block.
    import torch

    seen: list = []
    torch.nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append((module, args[0], y)))

    name = f"guide: {heading}"
    if block.parses:
        exec(compile(block.text, name, "exec"), namespace)
    else:
        for line in block.parsing_lines():
            exec(compile(line, f"{name}: {line}", "exec"), namespace)
    if died:
        raise died[0].exc_value
    namespace.update(seen=seen, same_as_cpu=same_as_cpu, in_threads=in_threads)
    exec(compile(AFTERWARDS[heading], f"after {name}", "exec"), namespace)
    if died:
        raise died[0].exc_value
    print("the block ran")


if __name__ == "__main__":
    main()
