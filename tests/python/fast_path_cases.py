"""Run by test_encoder_fast_path.py in a process of its own: torch.nn's transformer modules as one op, on any adapter.

Every result must be that of the module's ordinary way, on the CPU and on mps. Prints what is wrong, a line each, and
"ok" at the end.
"""

from __future__ import annotations

import copy
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rivulet
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

torch.manual_seed(0)
torch.set_num_threads(1)

LAYER, ATTENTION = "aten::_transformer_encoder_layer_fwd", "aten::_native_multi_head_attention"
BATCH, LENGTH, WIDTH, HEADS = 3, 7, 32, 4
NEAR = {torch.float32: (1e-4, 1e-5), torch.float16: (1e-2, 1e-2), torch.bfloat16: (3e-2, 6e-2)}
WRONG: list[str] = []


@contextmanager
def ordinary_way() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def ops_of(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The result of a call, and the names of the ops that it ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        made = call()
    return made, [event.name for event in profile.events()]


def expect(what: str, holds: bool, otherwise: Any = "") -> None:
    if not holds:
        WRONG.append(f"{what}: {otherwise}")


def move(value: Any) -> Any:
    return value.to("mps") if isinstance(value, torch.Tensor) else value


def compare(what: str, op: str | None, module: nn.Module, *args: Any, same: bool = False, **options: Any) -> None:
    """Calls the module on mps; it must run as `op` (None: as neither) and give what its ordinary way gives."""
    there = copy.deepcopy(module).to("mps")
    moved, moved_options = [move(a) for a in args], {k: move(v) for k, v in options.items()}
    if same:
        args, moved = args * 3, moved * 3
    try:
        rivulet.reset_fallback_counts()
        got, ops = ops_of(lambda: there(*moved, **moved_options))
        fell = rivulet.fallback_counts()
        with ordinary_way():
            slow, slow_ops = ops_of(lambda: there(*moved, **moved_options))
            wanted = module(*args, **options)
        taken = [name for name in ops if name in (LAYER, ATTENTION)]
        assert taken == ([op] if op else []), f"ran as {taken}"
        assert not {LAYER, ATTENTION} & set(slow_ops), "the ordinary way was not ordinary"
        assert not fell, f"fell back: {fell}"
        for one, other, third in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, slow, wanted))):
            assert (one is None) == (other is None), "the weights are there once"
            if one is not None:
                rtol, atol = NEAR[one.dtype]
                near = {"rtol": rtol, "atol": atol}
                assert (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
                torch.testing.assert_close(one, other, equal_nan=True, **near)
                torch.testing.assert_close(one.cpu(), third, equal_nan=True, **near)
    except Exception as error:
        WRONG.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    options = {"batch_first": True, "dropout": 0.1, "dim_feedforward": 48, **options}
    made = nn.TransformerEncoderLayer(WIDTH, HEADS, **options).eval()
    for parameter in made.parameters():  # biases and norms start as constants that hide a mix-up
        nn.init.normal_(parameter, std=0.3)
    return made


def attention(**options: Any) -> nn.MultiheadAttention:
    made = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **options}).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def inputs(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH).to(dtype)


def masks() -> dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]:
    causal = torch.ones(LENGTH, LENGTH).triu(1).bool()
    by_head = torch.rand(BATCH * HEADS, LENGTH, LENGTH) > 0.7
    by_head[:, :, 0] = False
    padding = torch.arange(LENGTH)[None] >= torch.tensor([LENGTH, 4, 2])[:, None]
    bias, bias_by_head = torch.randn(LENGTH, LENGTH), torch.randn(BATCH * HEADS, LENGTH, LENGTH)
    added = torch.zeros(BATCH, LENGTH).masked_fill_(padding, float("-inf"))
    return {
        "no mask": (None, None),
        "a source mask": (causal, None),
        "a source mask that is no view": (causal.t().contiguous().t(), None),
        "a source mask by head": (by_head, None),
        "padding": (None, padding),
        "both": (causal, padding),
        "both, by head": (by_head, padding),
        "an added source mask": (bias, None),
        "an added source mask by head": (bias_by_head, None),
        "added padding": (None, added),
        "both, added": (bias, added),
        "both, added, by head": (bias_by_head, added),
    }


def layers() -> None:
    tanh = nn.GELU(approximate="tanh")
    with torch.no_grad():
        for name, (mask, padding) in masks().items():
            compare(name, LAYER, layer(), inputs(), src_mask=mask, src_key_padding_mask=padding)
        for first, activation in itertools.product([False, True], [F.relu, F.gelu, "gelu", nn.ReLU(), nn.GELU()]):
            compare(f"{activation}, {first=}", LAYER, layer(norm_first=first, activation=activation), inputs())
        for activation in (tanh, torch.tanh, F.silu):
            compare(f"{activation}", ATTENTION, layer(activation=activation), inputs())
        for dtype in (torch.float16, torch.bfloat16):
            mask, padding = masks()["both"]
            compare(f"{dtype}", LAYER, layer(dtype=dtype), inputs(dtype), mask, padding)
        compare("strided", LAYER, layer(), inputs().transpose(0, 1).contiguous().transpose(0, 1))
        compare("a hint", LAYER, layer(), inputs(), masks()["a source mask"][0], is_causal=True)
        hidden = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
        hidden[1] = True
        compare("a sequence of padding alone", LAYER, layer(), inputs(), src_key_padding_mask=hidden)
        compare("its mask", LAYER, layer(), inputs(), src_key_padding_mask=masks()["padding"][1])
        stack = nn.TransformerEncoder(layer(), 1, enable_nested_tensor=False).eval()
        compare("an encoder", LAYER, stack, inputs(), *masks()["padding"])
    with torch.inference_mode():
        compare("inference mode", LAYER, layer(), inputs())
    compare("no gradient is wanted", LAYER, layer().requires_grad_(False), inputs())


def attentions() -> None:
    with torch.no_grad():
        for (name, (mask, padding)), weights, average in itertools.product(
            masks().items(), [False, True], [False, True]
        ):
            options = {"need_weights": weights, "average_attn_weights": average}
            masked = {"attn_mask": mask, "key_padding_mask": padding}
            compare(f"{name}, {options}", ATTENTION, attention(), inputs(), same=True, **masked, **options)
        for dtype in (torch.float16, torch.bfloat16):
            compare(f"{dtype}", ATTENTION, attention(dtype=dtype), inputs(dtype), same=True)
        compare("other keys", None, attention(), inputs(), inputs(), inputs())
        for option in ("bias", "batch_first"):
            compare(f"without {option}", None, attention(**{option: False}), inputs(), same=True)
        for option in ("add_bias_kv", "add_zero_attn"):
            compare(f"with {option}", None, attention(**{option: True}), inputs(), same=True)
        # The op itself takes other keys, which no module of PyTorch gives it.
        there, (q, k, v) = attention().to("mps"), (inputs().to("mps") for _ in range(3))
        own = (there.in_proj_weight, there.in_proj_bias, there.out_proj.weight, there.out_proj.bias)
        got = torch._native_multi_head_attention(q, k, v, WIDTH, HEADS, *own)
        for one, other in zip(got, there(q, k, v)):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Passes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Overridden(nn.TransformerEncoderLayer):
    def forward(self, src: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().forward(src, *args, **kwargs) + 1


def not_taken() -> None:
    """What the ordinary way does and the op does not is still done."""
    x = inputs().to("mps")

    def ordinary(what: str, module: nn.Module, call: Callable[[], Any] | None = None, op: str | None = None) -> Any:
        made, ops = ops_of(call or (lambda: module(x)))
        taken = [name for name in ops if name in (LAYER, ATTENTION)]
        expect(what, taken == ([op] if op else []), f"ran as {taken}")
        return made

    there = layer().to("mps")
    out = ordinary("gradients", there)
    expect("gradients", out.requires_grad, "the result has none")
    out.sum().backward()
    expect("gradients", all(p.grad is not None for p in there.parameters()), "a parameter has none")
    wanting = x.clone().requires_grad_()
    frozen = layer().requires_grad_(False).to("mps")
    expect("the gradient of the input", ordinary("of x", frozen, lambda: frozen(wanting)).requires_grad)
    with torch.no_grad():
        ordinary("training", layer().train().to("mps"))
        dropping = layer(dropout=0.5).to("mps")
        dropping.dropout1.train()
        outs = [ordinary("dropout of an evaluated layer", dropping, op=ATTENTION) for _ in range(2)]
        expect("dropout of an evaluated layer", not torch.equal(*outs), "drops nothing")
        plain = layer()
        doubled = copy.deepcopy(plain)
        doubled.linear2 = Doubling(48, WIDTH)
        doubled.linear2.load_state_dict(plain.linear2.state_dict())
        compare("a child of another class", ATTENTION, doubled, inputs())
        hooked, seen = layer().to("mps"), []
        hooked.linear1.register_forward_hook(lambda *_: seen.append("child"))
        hooked.register_forward_pre_hook(lambda *_: seen.append("layer"))
        ordinary("hooks", hooked, op=ATTENTION)
        expect("hooks", seen == ["layer", "child"], seen)
        handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append("any"))
        ordinary("a hook on all modules", layer().to("mps"))
        handle.remove()
        expect("a hook on all modules", seen.count("any") > 5, seen)
        own = Overridden(WIDTH, HEADS, batch_first=True).eval().to("mps")
        reference = nn.TransformerEncoderLayer(WIDTH, HEADS, batch_first=True).eval().to("mps")
        reference.load_state_dict(own.state_dict())
        # torch.equal would compare two ways of rounding.
        torch.testing.assert_close(ordinary("a forward of its own", own, op=ATTENTION), reference(x) + 1)
        replaced = layer().to("mps")
        replaced.forward = lambda src: src * 2
        expect("a forward of one object", torch.equal(ordinary("one object's", replaced), x * 2))
        with torch.autocast("mps", dtype=torch.float16):
            ordinary("autocast", there)
        with torch.device("cpu"):
            ordinary("a function mode", there)
        with Passes() as mode:
            there(x)
        expect("a dispatch mode", not {LAYER, ATTENTION} & set(mode.seen) and len(mode.seen) > 10, mode.seen)
        for options in ({"batch_first": False}, {"bias": False}):
            compare(f"{options}", None, layer(**options), inputs())
        uneven = layer()
        uneven.norm2.eps = 1e-3
        compare("two eps", ATTENTION, uneven, inputs())
        compare("one sequence", None, layer(), inputs()[0])
        weighing = attention().to("mps")
        mapped = ordinary("vmap", weighing, lambda: torch.vmap(lambda t: weighing(t, t, t)[0])(torch.stack([x, x])))
        torch.testing.assert_close(mapped[1], weighing(x, x, x)[0], rtol=1e-4, atol=1e-5)
        compiled = torch.compile(there, backend="eager")
        torch.testing.assert_close(ordinary("torch.compile", there, lambda: compiled(x)), there(x), rtol=1e-4, atol=1e-5)
        traced = torch.jit.trace(there, x)
        torch.testing.assert_close(traced(x), there(x), rtol=1e-4, atol=1e-5)
        scripted = torch.jit.script(there)
        torch.testing.assert_close(scripted(x), there(x), rtol=1e-4, atol=1e-5)
        for call in (lambda: there(), lambda: there(x, wrong=1), lambda: there(x, is_causal=True)):
            try:
                call()
                WRONG.append("a wrong call passed")
            except (TypeError, RuntimeError) as error:
                expect("a wrong call", "forward" in str(error) or "is_causal" in str(error), error)
        _, ops = ops_of(lambda: layer()(inputs()))
        expect("the CPU", ops.count(LAYER) == 1, ops)


def threads() -> None:
    there = nn.TransformerEncoder(layer(norm_first=True), 2, enable_nested_tensor=False).eval().to("mps")
    xs = [inputs().to("mps") for _ in range(8)]
    with torch.no_grad():
        alone = [there(x).cpu() for x in xs]
    start, same = threading.Barrier(8), [False] * 8

    def body(index: int) -> None:
        start.wait()
        with torch.no_grad():
            same[index] = all(torch.equal(there(xs[index]).cpu(), alone[index]) for _ in range(5))

    workers = [threading.Thread(target=body, args=(index,)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expect("eight threads", all(same), same)
    _, ops = ops_of(lambda: [torch.no_grad()(there)(xs[0])])
    expect("eight threads", ops.count(LAYER) == 2, "not the fast path")


if __name__ == "__main__":
    {f.__name__: f for f in (layers, attentions, not_taken, threads)}[sys.argv[1]]()
    print("\n".join(WRONG) or "ok")
