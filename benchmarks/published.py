"""The tables that another project for threads on `mps` published, measured again on the device at hand: mps eager, a plan a
shape, and PyTorch CUDA eager where there is a card, one run, beside the published figures. Then samples a second for batches
of 1 to 1024, and the batch from which on more rows bring less than a tenth more.

    RIVULET_ADAPTER=nvidia RIVULET_ACCELERATOR=cuda python benchmarks/published.py --out result.json
    RIVULET_ADAPTER=host python benchmarks/published.py --only "mlp, threads"

The published figures are of a MacBook Pro M4 Max (40-core GPU, macOS 15.7.3, a fork of torch 2.9.1), another machine: they
say how figures move with threads, batches and waits, not which hardware is faster. Python threads throughout.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RIVULET_ADAPTER", "nvidia")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import record  # noqa: E402
import torch  # noqa: E402
from plans_gpu import measure  # noqa: E402
from torch import nn  # noqa: E402

import rivulet  # noqa: E402
from rivulet.selftest.workloads import mlp  # noqa: E402

SYNC_EVERY = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: A batch is past the knee where twice the rows bring less than this many times the samples.
KNEE = 1.1


@dataclass
class Row:
    """One line of a table: so many calls (or samples) a second in one setting."""

    table: str
    setting: str
    #: What was published; `None` for settings of ours alone.
    published: float | None
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    threads: int = 1
    #: Calls between two waits of a thread.
    every: int = 1
    #: A model for each thread, and not one for all.
    own_model: bool = False
    #: The wait is a copy of the result to the CPU.
    to_cpu: bool = False
    #: Samples are counted, `shape[0]` a call.
    samples: bool = False


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Product(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x


def rows() -> Iterator[Row]:
    # Two figures where there are two: the first is the better of those published.
    table = "3: 512-1024-512, batch 32, a model a thread, wait each"
    for threads, figure in ((1, 3005.0), (8, 7065.0)):
        yield Row(table, f"{threads} threads", figure, two_layers, (32, 512), threads, own_model=True)

    figures = (4450.0, 5770.0, 6585.0, 7045.0, 7306.0, 7844.0, 9444.0, 10260.0, 10500.0)
    for every, figure in zip(SYNC_EVERY, figures):
        yield Row("4: mlp, one thread, by calls between waits", f"every {every}", figure, mlp, (1, 512), every=every)

    others: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float, float]] = {
        "Linear 512": (lambda: nn.Linear(512, 512), (1, 512), 8109.0, 41338.0),
        "two layers of 512": (lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)), (1, 512), 5756.0, 17059.0),
        "Linear 64": (lambda: nn.Linear(64, 64), (1, 64), 7945.0, 41252.0),
        "product of 512": (Product, (512, 512), 5909.0, 29707.0),
    }
    for name, (model, shape, each, rarely) in others.items():
        for every, figure in ((1, each), (256, rarely)):
            yield Row("5: other models, one thread", f"{name}, every {every}", figure, model, shape, every=every)

    for batch, figure in ((1, 10426.0), (8, 81562.0), (64, 635891.0), (256, 1557782.0)):
        yield Row("6: mlp, samples by batch, one thread", f"batch {batch}", figure, mlp, (batch, 512), every=50, samples=True)

    for threads, figure in ((1, 3301.0), (2, 3528.0), (4, 3805.0), (8, 3752.0), (16, 3819.0)):
        yield Row("7: mlp, one model, wait after 50", f"{threads} threads", figure, mlp, (1, 512), threads, every=50)

    for threads, figure in ((1, 719.0), (2, 2605.0), (4, 2752.0), (8, 2728.0), (16, 2720.0)):
        yield Row("9: mlp, threads, wait each", f"{threads} threads", figure, mlp, (1, 512), threads)
    figures = (9218.0, 17892.0, 38823.0, 82315.0, 162060.0, 307829.0, 603591.0, 988226.0, 1388672.0)
    for batch, figure in zip(BATCHES, figures):
        yield Row("9: mlp, samples by batch", f"batch {batch}", figure, mlp, (batch, 512), every=50, samples=True)

    for threads, figure in ((1, 9913.0), (2, 2495.0), (4, 2765.0), (8, 2716.0)):
        yield Row("10: mlp, batch 32, wait after 50", f"{threads} threads", figure, mlp, (32, 512), threads, every=50)
    yield Row("10: mlp, batch 128, samples", "1 threads", 1026734.0, mlp, (128, 512), every=50, samples=True)

    for threads, figure in ((1, 537.0), (2, 606.4), (4, 596.8), (8, 604.0)):
        yield Row(
            "11: encoder of 2 layers [4, 32, 256], a model a thread, .cpu()", f"{threads} threads", figure, encoder,
            (4, 32, 256), threads, own_model=True, to_cpu=True,
        )  # fmt: skip

    for batch, figure in ((1, 722.0), (8, 7100.0), (32, 21340.0), (64, 31848.0)):
        yield Row("12: the encoder, samples by batch, wait each", f"batch {batch}", figure, encoder, (batch, 32, 256), samples=True)

    for name, model, shape in (("mlp", mlp, (512,)), ("encoder", encoder, (32, 256))):
        for batch in BATCHES:
            yield Row(f"curve: {name}, wait each", f"batch {batch}", None, model, (batch, *shape), samples=True)


#: How to run: the device's name, and what makes the call of a model and an input.
WAYS: dict[str, tuple[str, Callable[[nn.Module, torch.Tensor], Callable[[torch.Tensor], Any]]]] = {
    "mps eager": ("mps", lambda model, x: model),
    "mps plan": ("mps", lambda model, x: rivulet.capture(model, x)),
    "cuda eager": ("cuda", lambda model, x: model),
}


def rate(row: Row, way: str, seconds: float) -> float:
    """Calls or samples a second of all threads together."""
    device, prepare = WAYS[way]
    model = row.model().eval().to(device)
    x = torch.randn(row.shape).to(device)
    with torch.no_grad():
        run = prepare(model, x)

    def make() -> Callable[[], None]:
        # A plan of one's own is captured in the thread that uses it.
        body = prepare(copy.deepcopy(model), x) if row.own_model else run
        backend = torch.mps if device == "mps" else torch.cuda
        stream = backend.current_stream()

        def call() -> None:
            for _ in range(row.every):
                result = body(x)
            if row.to_cpu:
                result.cpu()
            else:
                stream.synchronize()

        return call

    found, _ = measure(make, row.threads, seconds)
    return found * row.every * (row.shape[0] if row.samples else 1)


def knee(batches: dict[int, float]) -> str:
    """From which batch on twice the rows bring less than a tenth more."""
    sizes = sorted(batches)
    for small, large in zip(sizes, sizes[1:]):
        if batches[large] < KNEE * batches[small]:
            return f"saturates at {small}"
    return f"does not saturate up to {sizes[-1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--only", default="", help="tables whose name contains this")
    args = parser.parse_args()
    torch.manual_seed(0)
    ways = [way for way, (device, _) in WAYS.items() if device == "mps" or torch.cuda.is_available()]
    print(rivulet.adapter().name, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA", flush=True)
    done: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], dict[int, float]] = {}
    table = ""
    for row in rows():
        if args.only not in row.table:
            continue
        if row.table != table:
            table = row.table
            print(f"\n{table}\n    {'':<30}{'published':>12}" + "".join(f"{way:>14}" for way in ways), flush=True)
        found = {way: rate(row, way, args.seconds) for way in ways}
        published = "" if row.published is None else f"{row.published:,.0f}"
        print(f"    {row.setting:<30}{published:>12}" + "".join(f"{found[way]:>14,.0f}" for way in ways), flush=True)
        kept = {key: value for key, value in asdict(row).items() if key != "model"}
        done.append({**kept, "found": found})
        if row.samples:
            for way in ways:
                curves.setdefault((row.table, way), {})[row.shape[0]] = found[way]
    print()
    for (name, way), batches in curves.items():
        if len(batches) > 4:
            print(f"{name}, {way}: {knee(batches)}")
    record.keep(args.out, done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
