"""Plans give what eager mode gives, from any number of threads, and joined calls go back to their owners."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rivulet
import torch
import torch.nn.functional as F
from torch import nn

from ..compare import same_bits
from ..crew import crew
from ..registry import Check, Context, Failed


def checks(context: Context) -> list[Check]:
    torch.set_num_threads(1)
    made = [Check(f"{name}: a plan gives what eager mode gives", _eager(make)) for name, make in _MODELS.items()]
    return made + [
        Check("a chain of pointwise ops", _chain),
        Check("new shapes are noted anew", _shapes),
        Check("one plan for every batch", _any_batch),
        Check("a weight changed in place is seen", _weights),
        Check("a plan from a file", _file),
        Check("eight threads call one plan", _threads),
        Check("joined calls get their own rows", _joined),
        Check("calls that come together run together", _together),
        Check("a Batcher gives each caller its rows", _batcher),
        Check("what a plan cannot hold is refused", _refused),
    ]


def _close(got: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    if got.shape != wanted.shape or not torch.allclose(got.cpu(), wanted.cpu(), rtol=1e-4, atol=1e-5):
        off = (got.cpu() - wanted.cpu()).abs().max().item() if got.shape == wanted.shape else float("nan")
        raise Failed(f"{what}: {list(got.shape)} instead of {list(wanted.shape)}, {off:.2e} off")


class _Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        attended: torch.Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return attended


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 6))


_MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "MLP": lambda: (_mlp(), torch.randn(3, 8)),
    "attention": lambda: (_Attends(), torch.randn(2, 7, 32)),
    "TransformerEncoderLayer": lambda: (
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0),
        torch.randn(2, 7, 32),
    ),
    "convolutions": lambda: (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)),
        torch.randn(2, 3, 8, 8),
    ),
}  # fmt: skip


def _there(made: nn.Module) -> nn.Module:
    return copy.deepcopy(made).eval().to("mps")


@torch.no_grad()
def _direct(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = model(x)
    return result


def _eager(make: Callable[[], tuple[nn.Module, torch.Tensor]]) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        made, x = make()
        model, there = _there(made), x.to("mps")
        plan = rivulet.capture(model, there)
        for number in context.rounds(3, 20, 3.0):
            other = torch.randn(x.shape).to("mps")
            _close(plan(other), _direct(model, other), f"call {number}")

    return run


def _chain(context: Context) -> None:
    def chain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x * 2 + y).tanh() * y).sigmoid() - x.relu()

    for shape in ((4, 8), (7, 33), (1,)):
        x, y = torch.randn(shape, device="mps"), torch.randn(shape, device="mps")
        plan = rivulet.capture(chain, x, y)
        plan(x, y)
        _close(plan(x, y), chain(x, y), f"a chain over {list(shape)}")


def _shapes(context: Context) -> None:
    model = _there(_mlp())
    plan = rivulet.capture(model, torch.randn(2, 8, device="mps"))
    for rows in (1, 5, 2, 33, 5):
        x = torch.randn(rows, 8, device="mps")
        _close(plan(x), _direct(model, x), f"{rows} rows")


def _any_batch(context: Context) -> None:
    model = _there(_mlp())
    plan = rivulet.capture(model, torch.randn(2, 8, device="mps"), dynamic_batch=True)
    for rows in (1, 2, 7, 64, 129):
        x = torch.randn(rows, 8, device="mps")
        _close(plan(x), _direct(model, x), f"{rows} rows")


def _weights(context: Context) -> None:
    model, x = _there(nn.Linear(8, 4)), torch.randn(3, 8, device="mps")
    plan = rivulet.capture(model, x)
    with torch.no_grad():
        model.weight.mul_(2).add_(1)
    _close(plan(x), _direct(model, x), "after a change of the weight")


def _file(context: Context) -> None:
    model, x = _there(_mlp()), torch.randn(3, 8, device="mps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.plan"
        rivulet.capture(model, x).save(path)
        _close(rivulet.load_plan(path)(x), _direct(model, x), "a plan from a file")


def _threads(context: Context) -> None:
    model = _there(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0))
    inputs = [torch.randn(2, 7, 32, device="mps") for _ in range(8)]
    plan = rivulet.capture(model, inputs[0])
    plan(inputs[0])
    alone = [plan(x).cpu() for x in inputs]

    def body(index: int) -> None:
        for step in range(3 if context.quick else 60):
            place = (index + step) % 8
            if not same_bits(plan(inputs[place]).cpu(), alone[place]):
                raise Failed(f"thread {index}, step {step}: other bits than one thread alone")
            context.progress()

    crew(8, body)


def _joined(context: Context) -> None:
    model = _there(_mlp())
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), coalesce=True)
    steps = 4 if context.quick else 60

    def body(index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        for step in range(steps):
            x = torch.randn(1 + (index + step) % 3, 8, generator=generator).to("mps")
            _close(plan(x), _direct(model, x), f"thread {index}, step {step}")
            context.progress()

    crew(8, body)
    joined: dict[str, Any] = plan.stats()["joined"]
    context.facts["sizes"] = joined["sizes"]
    rows = sum(1 + (index + step) % 3 for index in range(8) for step in range(steps))
    if (joined["requests"], joined["rows"]) != (8 * steps, rows):
        raise Failed(f"{joined['requests']} calls of {joined['rows']} rows were counted, of {8 * steps} and {rows}")


def _together(context: Context) -> None:
    model = _there(_mlp())
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    # Long enough for all threads to be there, whatever the machine does.
    plan.coalesce(max_batch=8, max_wait_us=20_000_000)
    xs = torch.randn(8, 8).to("mps")
    got = crew(8, lambda index: plan(xs[index : index + 1]))
    _close(torch.cat([rows.cpu() for rows in got]), _direct(model, xs), "rows of one batch")
    sizes = plan.stats()["joined"]["sizes"]
    if sizes != {"8": 1}:
        raise Failed(f"eight calls that came together ran as {sizes}")


def _batcher(context: Context) -> None:
    model = _there(_mlp())
    steps = 4 if context.quick else 40
    with rivulet.Batcher(model, max_batch=16) as batcher:

        def body(index: int) -> None:
            for step in range(steps):
                x = torch.full((1 + index % 2, 8), float(index + step)).to("mps")
                _close(batcher(x), _direct(model, x), f"thread {index}, step {step}")
                context.progress()

        crew(8, body)


def _refused(context: Context) -> None:
    def reads(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x

    try:
        rivulet.capture(reads, torch.ones(3, device="mps"))
    except rivulet.PlanError as error:
        if "reads a value on the CPU" not in str(error):
            raise Failed(f"the error does not say what is refused: {error}") from None
    else:
        raise Failed("a function that reads a value in the middle was made a plan")
