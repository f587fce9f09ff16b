"""Memory: it levels off under changing shapes, nothing is left behind, and what is freed can be had again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..crew import THREADS, apart, crew
from ..registry import Check, Context, Failed, NotHere

MIB = 1 << 20


def checks(context: Context) -> list[Check]:
    torch.set_num_threads(1)
    return [
        Check("what is allocated is counted and given back", _counted),
        Check("driver memory levels off under changing shapes, one thread", lambda context: _varying(context, 1)),
        Check("driver memory levels off under changing shapes, 8 threads", lambda context: _varying(context, 8)),
        Check("forwards leave nothing behind", lambda context: _forwards(context, waits=True)),
        Check("forwards that are never waited for leave nothing behind", lambda context: _forwards(context, waits=False)),
        Check("threads that end leave nothing behind", _threads),
        Check("training leaves nothing behind", _training),
        Check("work recorded far ahead takes bounded memory", _far_ahead),
        Check("empty_cache gives back what is free", _empty_cache),
    ]


def resident() -> int:
    """Bytes of this process that are in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        pass
    try:
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, timeout=20)
        return int(told.stdout) * 1024
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise NotHere(f"nothing says how much memory a process of {sys.platform} has") from None


def settled() -> tuple[int, int]:
    """Bytes allocated, and bytes that the driver gave, when all is done."""
    torch.mps.synchronize()
    gc.collect()
    return torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()


def _counted(context: Context) -> None:
    before, _ = settled()
    x = torch.empty(3 * MIB, dtype=torch.uint8, device="mps")
    during, driver = settled()
    if not 3 * MIB <= during - before <= 4 * MIB or driver < during:
        raise Failed(f"3 MiB were asked for, {during - before} bytes were counted, of {driver} from the driver")
    del x
    after, _ = settled()
    if after != before:
        raise Failed(f"{after - before} bytes of a freed tensor are still counted")


class Small(nn.Module):
    """Much memory for little arithmetic: software takes seconds for a product that a GPU does in microseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.Linear(4, 64), nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(self.norm(self.up(x)))
        return (y * 2 + y.softmax(-1)).amax(1)


def sizes(index: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Batches and lengths from 1 to 1024 whose product is at most 4096; other ones for each thread."""
    generator = torch.Generator().manual_seed(index)
    for _ in range(rounds):
        length, batch = (int(2 ** (10 * torch.rand((), generator=generator).item())) for _ in range(2))
        yield max(1, min(batch, 4096 // length)), length


def step(model: nn.Module, batch: int, length: int) -> None:
    with torch.no_grad():
        model(torch.ones(batch, length, 4, device="mps"))


def need_of(model: nn.Module) -> int:
    """Bytes of the driver for one step at its largest, on a thread of its own with nothing in the caches."""

    def largest() -> int:
        torch.mps.empty_cache()
        before = torch.mps.driver_allocated_memory()
        for _ in range(2):
            for batch in (8, 128, 1024):
                step(model, batch, 4096 // batch)
            torch.mps.current_stream().synchronize()
        return int(torch.mps.driver_allocated_memory()) - before

    return int(apart(largest))


def _varying(context: Context, threads: int) -> None:
    model = Small().eval().to("mps")

    def sweep(index: int) -> None:
        for batch, length in sizes(index, 4 if context.quick else 16):
            step(model, batch, length)
            context.progress()
        torch.mps.current_stream().synchronize()

    need = need_of(model)
    torch.mps.empty_cache()
    base = settled()[1]
    after = []
    for _ in context.rounds(3, 6, 8.0):
        crew(threads, sweep)
        after.append(settled()[1])
    bound = base + int(threads * 1.3 * need)
    context.facts["driver_mib"] = [round(value / MIB, 1) for value in after]
    if max(after) > bound:
        raise Failed(
            f"{max(after) / MIB:.1f} MiB from the driver where {bound / MIB:.1f} are enough: {need / MIB:.1f} for the "
            f"largest step of each of {threads} threads, and a third more"
        )
    torch.mps.empty_cache()
    rest = settled()
    if rest[0] > MIB or rest[1] > base + 4 * MIB:
        raise Failed(f"{rest[0]} bytes allocated and {rest[1] - base} more from the driver are left behind")


def _forwards(context: Context, waits: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)).eval().to("mps")
    x = torch.randn(4, 8)
    count = 500 if context.quick else 10_000

    def run(times: int) -> torch.Tensor:
        with torch.no_grad():
            for _ in range(times):
                y = model(x.to("mps"))
                if waits:
                    torch.mps.synchronize()
                context.progress()
        return y.cpu()

    # The first may fill caches, the allocator's and Python's.
    first = run(max(100, count // 10))
    before, pages = settled(), resident()
    if not torch.equal(run(count), first):
        raise Failed(f"after {count} forwards the result is another")
    after, more = settled(), resident()
    context.facts["forwards"] = count
    context.facts["resident_kib_more"] = (more - pages) // 1024
    if after != before:
        raise Failed(f"allocated and driver bytes went from {before} to {after} in {count} forwards")
    if more > pages + 8 * MIB:
        raise Failed(f"the process has {(more - pages) / MIB:.1f} MiB more after {count} forwards; 8 are allowed")


def _threads(context: Context) -> None:
    model = nn.Linear(64, 64).eval().to("mps")

    def body(together: threading.Barrier) -> None:
        with torch.no_grad():
            y = model(torch.ones(64, 64, device="mps"))
            y.sum().item()
        # Every stream there is has its memory by then, whichever threads come later.
        together.wait(context.wait)

    def all_at_once() -> None:
        together = threading.Barrier(THREADS)
        crew(THREADS, lambda _: body(together))

    for _ in range(2):
        all_at_once()
    before = settled()
    for _ in context.rounds(2, 20, 5.0):
        all_at_once()
    after = settled()
    if after[0] != before[0] or after[1] > before[1] + 4 * MIB:
        raise Failed(f"allocated and driver bytes went from {before} to {after} with threads that came and went")


def _training(context: Context) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to("mps")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, wanted = torch.randn(8, 16, device="mps"), torch.randn(8, 4, device="mps")

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            F.mse_loss(model(x), wanted).backward()
            optimizer.step()
            context.progress()

    steps(10)
    before = settled()
    steps(20 if context.quick else 300)
    after = settled()
    if after != before:
        raise Failed(f"allocated and driver bytes went from {before} to {after} in training")


def _far_ahead(context: Context) -> None:
    x, y = torch.zeros(1 << 12, device="mps"), torch.ones(1 << 12, device="mps")
    count = 4_000 if context.quick else 40_000

    def run() -> int:
        for _ in range(count):
            x.add_(y)
            context.progress()
        return resident()

    # How far a thread comes ahead of a device that is about as fast as it differs from round to round; what may be
    # unfinished is bounded, so its memory is found within a few.
    held = [run()]
    while len(held) < 2 or held[-1] > max(held[:-1]) + 4 * MIB:
        if len(held) == 8:
            told = ", ".join(f"{value / MIB:.1f}" for value in held)
            raise Failed(f"the process grew in each round of {count} ops that were not waited for: {told} MiB")
        held.append(run())
    ops = count * len(held)
    context.facts.update(ops=ops, resident_mib=[round(value / MIB, 1) for value in held])
    if not bool((x.cpu() == ops).all()):
        raise Failed(f"{x.max().item()} after {ops} additions of 1")


def _empty_cache(context: Context) -> None:
    torch.mps.empty_cache()
    before = settled()[1]
    x = torch.ones(16 * MIB, device="mps")
    held = settled()[1]
    del x
    settled()
    torch.mps.empty_cache()
    after = settled()[1]
    if held < before + 64 * MIB or after > before + 4 * MIB:
        raise Failed(f"driver memory: {before} bytes before, {held} with 64 MiB, {after} after they were given back")
