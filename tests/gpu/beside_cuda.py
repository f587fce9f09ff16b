"""`mps` beside a live CUDA device in one process. Needs an NVIDIA GPU; not part of `./run test`.

    python tests/gpu/beside_cuda.py            # runs itself once for each value of RIVULET_ACCELERATOR

Prints one line a fact, `ok` or `FAILED`, and exits with the number of failures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

FAILURES = 0


def fact(text: str, holds: object) -> None:
    global FAILURES
    FAILURES += not holds
    print("ok    " if holds else "FAILED", text, flush=True)


def error_of(call) -> str:
    try:
        call()
    except Exception as error:  # the text is what is checked
        return f"{type(error).__name__}: {error}"
    return ""


def backward(device: str) -> None:
    import torch

    layer = torch.nn.Linear(16, 4).to(device)
    layer(torch.randn(8, 16, device=device)).square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.device.type == device


def check(choice: str) -> None:
    import torch

    chosen = "mps" if choice == "mps" else "cuda"
    other = "cuda" if chosen == "mps" else "mps"
    fact(f"[{choice}] cuda is live", torch.cuda.is_available())
    fact(f"[{choice}] mps is available", torch.backends.mps.is_available())
    fact(f"[{choice}] torch.accelerator is {chosen}", torch.accelerator.current_accelerator().type == chosen)

    host = torch.randn(64, 64)
    for source, target in (("cuda", "mps"), ("mps", "cuda")):
        moved = host.to(source).to(target)
        fact(f"[{choice}] {source} to {target} keeps the values", torch.equal(moved.cpu(), host))
        into = torch.empty(64, 64, device=target)
        into.copy_(host.to(source), non_blocking=True)
        torch.cuda.synchronize()
        fact(f"[{choice}] copy_ from {source} into {target}", torch.equal(into.cpu(), host))

    with torch.no_grad():
        layer = torch.nn.Linear(64, 8)
        expected = layer(host)
        for device in ("mps", "cuda"):
            result = layer.to(device)(host.to(device)).cpu()
            fact(f"[{choice}] forward on {device}", torch.allclose(result, expected, atol=1e-3))

    text = error_of(lambda: backward(chosen))
    fact(f"[{choice}] backward on {chosen} {text}", text == "")
    text = error_of(lambda: backward(other))
    fact(f"[{choice}] {other} says that it has no autograd: {text}", "RIVULET_ACCELERATOR" in text)

    errors: list[str] = []
    threads = [threading.Thread(target=lambda: errors.append(error_of(lambda: backward(chosen)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fact(f"[{choice}] backward on {chosen} from 6 threads {set(errors)}", errors == [""] * 6)


def main() -> int:
    if len(sys.argv) > 1:
        check(sys.argv[1])
        return FAILURES
    failures = 0
    for choice in ("auto", "cuda", "mps"):
        environment = {**os.environ, "RIVULET_ACCELERATOR": choice}
        failures += subprocess.run([sys.executable, __file__, choice], env=environment, timeout=240).returncode != 0
    return failures


if __name__ == "__main__":
    sys.exit(main())
