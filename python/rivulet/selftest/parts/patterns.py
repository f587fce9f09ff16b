"""What is reported to crash or to give wrong numbers on mps with threads, elsewhere: those programs, in small.

The numbers are issues of pytorch/pytorch where nothing else is said.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..compare import relative_error, same_bits
from ..crew import THREADS, apart, crew
from ..registry import Check, Context, Failed

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def checks(context: Context) -> list[Check]:
    torch.set_num_threads(1)
    return [
        Check("packed QKV made contiguous, then attention, 8 threads", _packed),
        Check("strided views made contiguous, 8 threads", _strided),
        Check("MultiheadAttention beside the CPU, 8 threads", _multihead),
        Check("TransformerEncoderLayer beside the CPU, 31 threads", _encoder_layer),
        Check("LayerNorm and bmm beside the CPU, 8 threads", _norm_and_bmm),
        Check("a model of its own for each thread, made in the thread", _own_models),
        Check("training steps in 8 threads", _training),
        Check("arange and linspace of growing sizes, 2 threads (#197805)", _ranges),
        Check("unary ops of growing sizes, 4 threads (#197805)", _unary),
        Check("factories, renorm, copies and item(), 8 threads (#198039)", _factories),
        Check("15 threads, one first op each, on a shared vector (#167541)", _latch),
        Check("repr, nonzero and masks while another thread computes (#100285)", _debugger),
        Check("weights loaded by a pool of 4 (transformers #48029)", _loading),
        Check("16 queries of one cross-encoder, as served (open-webui #29722)", _queries),
        Check("pinned memory freed while it is copied (#193819)", _pinned),
        Check("new threads, for ever, on a shared tensor", _new_threads),
    ]


def _in_threads(context: Context, count: int, work: Callable[[], list[torch.Tensor]], rounds: tuple[int, int]) -> None:
    """Every thread gets the bits of one thread alone, in every round."""

    def once() -> list[torch.Tensor]:
        with torch.no_grad():
            return [result.cpu() for result in work()]

    alone = apart(once)
    for number in context.rounds(*rounds, 4.0):

        def body(index: int, number: int = number) -> None:
            got = once()
            context.progress()
            for place, (one, other) in enumerate(zip(got, alone, strict=True)):
                if not same_bits(one, other):
                    off = (one.double() - other.double()).abs().max().item()
                    raise Failed(f"round {number}, thread {index}: result {place} differs from one thread's by {off:.3g}")

        crew(count, body)


def _near(got: torch.Tensor, call: Callable[[torch.dtype], torch.Tensor], what: str) -> None:
    """Within 1e-5 of float64 in relative L2 error, or twice what the CPU is off."""
    with torch.no_grad():
        truth, own = call(torch.float64), call(torch.float32)
    error, allowed = relative_error(got, truth), max(1e-5, 2 * relative_error(own, truth))
    if not error <= allowed:
        raise Failed(f"{what}: relative error {error:.2e} where {allowed:.2e} is allowed")


def _packed(context: Context) -> None:
    packed = torch.randn(2, 24, 3, 4, 32)
    there = packed.to("mps")

    def attend(x: torch.Tensor) -> list[torch.Tensor]:
        q, k, v = x.permute(2, 0, 3, 1, 4).contiguous()
        return [q, k, v, F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()]

    for one, other in zip(attend(there)[:3], attend(packed)[:3], strict=True):
        if not same_bits(one.cpu(), other):
            raise Failed("a packed projection made contiguous is not what it was")
    _near(attend(there)[3], lambda dtype: attend(packed.to(dtype))[3], "attention of a packed projection")
    _in_threads(context, 8, lambda: attend(there), (5, 60))


def _strided(context: Context) -> None:
    image = torch.arange(6 * 40 * 72.0).reshape(6, 40, 72)
    there = image.to("mps")

    def copies(x: torch.Tensor) -> list[torch.Tensor]:
        target = torch.zeros(40, 6, 144, device=x.device)
        target[:, :, ::2].copy_(x.transpose(0, 1))
        target[:, 1::2, 1::4] = x.transpose(0, 1)[:, ::2, 1::2]
        chunks = [chunk.contiguous() for chunk in x.chunk(3, -1)]
        return [target, x.permute(2, 0, 1).contiguous(), x[1::2, ::3, 5:].contiguous(), x.mT.reshape(-1), *chunks]

    for number, (one, other) in enumerate(zip(copies(there), copies(image), strict=True)):
        if not same_bits(one.cpu(), other):
            raise Failed(f"copy {number} of a strided view is not the CPU's")
    _in_threads(context, 8, lambda: copies(there), (5, 60))


def _beside_cpu(context: Context, made: nn.Module, inputs: tuple[torch.Tensor, ...], count: int, rounds: tuple[int, int]) -> None:
    made = made.eval()
    there, moved = copy.deepcopy(made).to("mps"), [x.to("mps") for x in inputs]

    def on_cpu(dtype: torch.dtype) -> torch.Tensor:
        return _first(copy.deepcopy(made).to(dtype)(*(x.to(dtype) for x in inputs)))

    with torch.no_grad():
        _near(_first(there(*moved)), on_cpu, type(made).__name__)
    _in_threads(context, count, lambda: [_first(there(*moved))], rounds)


def _first(result: Any) -> torch.Tensor:
    first: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return first


def _multihead(context: Context) -> None:
    x = torch.randn(2, 16, 64)
    _beside_cpu(context, nn.MultiheadAttention(64, 4, batch_first=True), (x, x, x), 8, (5, 60))


def _encoder_layer(context: Context) -> None:
    made = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    _beside_cpu(context, made, (torch.randn(2, 12, 64),), THREADS, (1, 20))


def _norm_and_bmm(context: Context) -> None:
    norm, x = nn.LayerNorm(96), torch.randn(8, 24, 96)
    _beside_cpu(context, norm, (x,), 8, (5, 60))
    there = x.to("mps")
    _near(torch.bmm(there, there.mT), lambda dtype: torch.bmm(x.to(dtype), x.to(dtype).mT), "bmm")
    _in_threads(context, 8, lambda: [torch.bmm(there, there.mT)], (5, 60))


def _own_models(context: Context) -> None:
    made = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    x = torch.randn(3, 16)
    with torch.no_grad():
        alone = apart(lambda: copy.deepcopy(made).to("mps")(x.to("mps")).cpu())

    def body(index: int) -> None:
        with torch.no_grad():
            got = copy.deepcopy(made).to("mps")(x.to("mps")).cpu()
        context.progress()
        if not same_bits(got, alone):
            raise Failed(f"the model of thread {index} gives other bits than that of one thread alone")

    for _ in context.rounds(1, 15, 4.0):
        crew(16, body)


def _training(context: Context) -> None:
    made = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.0), nn.LayerNorm(32), nn.Linear(32, 4)).train()
    x, wanted = torch.randn(8, 16), torch.randn(8, 4)
    steps = 3 if context.quick else 20

    def train(device: str) -> list[torch.Tensor]:
        model = copy.deepcopy(made).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        inputs, targets = x.to(device), wanted.to(device)
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            context.progress()
        return [parameter.detach().cpu() for parameter in model.parameters()]

    expected = train("cpu")
    for index, got in enumerate(crew(8, lambda _: train("mps"))):
        for place, (one, other) in enumerate(zip(got, expected, strict=True)):
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-5):
                off = (one - other).abs().max().item()
                raise Failed(f"thread {index}, parameter {place}: {off:.2e} from the CPU's after {steps} steps")


def _ranges(context: Context) -> None:
    steps = 5 if context.quick else 60

    def body(index: int) -> list[float]:
        sums = []
        for i in range(steps):
            dtype = _DTYPES[i % 3]
            sums.append(torch.arange(0, 4096 + i, device="mps").to(dtype).float().sum().item())
            sums.append(torch.linspace(0, 1, 2048 + i, device="mps", dtype=dtype).float().sum().item())
            context.progress()
        return sums

    alone = apart(lambda: body(0))
    for got in crew(2, body):
        if got != alone:
            raise Failed("a thread's sums of arange and linspace are not those of one thread alone")


_OPS = (
    torch.abs, torch.neg, torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.sin, torch.cos, torch.tanh, torch.erf,
    torch.sigmoid, torch.floor, torch.round, torch.square, torch.reciprocal, F.relu, F.gelu, F.silu, F.softplus, F.mish,
)  # fmt: skip


def _unary(context: Context) -> None:
    steps = 4 if context.quick else 60

    def body(index: int) -> list[float]:
        sums = []
        for i in range(steps):
            x = torch.linspace(-2, 2, 257 + 7 * i, device="mps").to(_DTYPES[i % 3])
            for op in _OPS[(i + index) % 4 :: 4]:
                sums.append(op(x).float().nan_to_num(7).sum().item())
            context.progress()
        return sums

    alone = apart(lambda: [body(index) for index in range(4)])
    for index, got in enumerate(crew(4, body)):
        if got != alone[index]:
            raise Failed(f"thread {index} has other sums than one thread alone")


def _factories(context: Context) -> None:
    source = torch.arange(48.0).reshape(6, 8)
    steps = 3 if context.quick else 40

    def body(index: int) -> list[torch.Tensor]:
        made = []
        for i in range(steps):
            n = 5 + i % 11
            x = source.to("mps")
            made.append(torch.arange(n, device="mps").cpu())
            made.append(torch.eye(n, device="mps").cpu())
            made.append(torch.tensor(torch.linspace(0, n, 3 * n, device="mps")[n].item()))
            made.append(torch.logspace(-1, 1, n, device="mps").cpu())
            made.append(torch.renorm(x, 2, 0, 1.0 + i % 3).cpu())
            made.append(x.copy_(source * 2).t().contiguous().cpu())
            context.progress()
        return made

    alone = apart(lambda: body(0))
    for index, got in enumerate(crew(8, body)):
        if not all(map(same_bits, got, alone)):
            raise Failed(f"thread {index} has other values than one thread alone")


_LATCH = (
    torch.tanh, torch.abs, torch.sin, torch.cos, torch.tan, torch.asin, torch.acos, torch.atan, torch.sqrt, torch.rsqrt,
    torch.neg, torch.exp2, torch.log10, torch.log2, torch.log,
)  # fmt: skip


def _latch(context: Context) -> None:
    vector = torch.linspace(0.01, 0.99, 128)
    there = vector.to("mps")
    for op, got in zip(_LATCH, crew(len(_LATCH), lambda index: _LATCH[index](there).cpu()), strict=True):
        if not torch.allclose(got, op(vector), rtol=1e-5, atol=1e-6):
            raise Failed(f"{op.__name__} is {(got - op(vector)).abs().max().item():.2e} off")


def _debugger(context: Context) -> None:
    image = torch.rand(32, 32, 3)
    shared = image.to("mps")
    over = threading.Event()

    def body(index: int) -> None:
        if index == 0:
            while not over.is_set():
                (shared * 2 + 1).permute(2, 0, 1).contiguous().softmax(0).sum().item()
            return
        try:
            for _ in context.rounds(4, 30, 4.0):
                if repr(shared) != repr(image).replace(")", ", device='mps:0')"):
                    raise Failed(f"repr of a tensor: {repr(shared)[:200]}")
                if not torch.equal(shared.nonzero().cpu(), image.nonzero()):
                    raise Failed("nonzero is not the CPU's")
                if not torch.equal(shared[shared > 0.5].cpu(), image[image > 0.5]):
                    raise Failed("a mask does not take what it takes on the CPU")
        finally:
            over.set()

    crew(2, body)


def _loading(context: Context) -> None:
    weights = [torch.randn(64, 64 + i).to(torch.bfloat16) for i in range(25)]
    for _ in context.rounds(2, 20, 4.0):
        with ThreadPoolExecutor(4) as executor:
            loaded = list(executor.map(lambda w: w.to("mps", torch.float32), weights))
        for place, (got, wanted) in enumerate(zip(loaded, weights, strict=True)):
            if not same_bits(got.cpu(), wanted.float()):
                raise Failed(f"weight {place} is not what was loaded")


def _queries(context: Context) -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score = nn.Embedding(500, 64), nn.Linear(64, 1)
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.score(self.layers(self.embed(tokens)).mean(1)).sigmoid()
            return scores

    model = Scores().eval().to("mps")
    requests = [torch.randint(0, 500, (4, 8 + number % 5)) for number in range(16)]

    @torch.no_grad()
    def predict(tokens: torch.Tensor) -> torch.Tensor:
        context.progress()
        return model(tokens.to("mps")).cpu()

    alone = apart(lambda: [predict(tokens) for tokens in requests])
    for number in context.rounds(1, 15, 5.0):
        for index, got in enumerate(crew(16, lambda index: predict(requests[index]))):
            if not same_bits(got, alone[index]):
                raise Failed(f"round {number}: query {index} has other scores than when it is alone")


def _pinned(context: Context) -> None:
    for number in context.rounds(10, 100, 3.0):
        source = torch.full((1 << 14,), float(number))
        try:
            source = source.pin_memory()
        except RuntimeError:
            context.facts["note"] = "this PyTorch pins no memory; ordinary memory was used"
        copied = source.to("mps", non_blocking=True)
        del source
        other = torch.full((1 << 14,), -1.0)
        got = copied.cpu().unique().tolist()
        if got != [number]:
            raise Failed(f"round {number}: the copy holds {got[:3]} instead of {number}")
        del other


def _new_threads(context: Context) -> None:
    shared = torch.ones(256, device="mps")
    results: queue.Queue[Any] = queue.Queue()

    def double() -> None:
        try:
            results.put((shared * 2).sum().item())
        except Exception as error:
            results.put(error)

    for number in range(40 if context.quick else 400):
        thread = threading.Thread(target=double, daemon=True)
        thread.start()
        got = results.get(timeout=context.wait)
        thread.join()
        context.progress()
        if got != 512:
            raise Failed(f"thread {number} got {got!r} instead of 512")
