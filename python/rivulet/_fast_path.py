"""The one-op way of ``torch.nn``'s modules for transformers, for mps.

PyTorch runs ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` as one op where they are evaluated without
gradients, on the devices that a list in their ``forward`` names; mps is not in it. The ops exist for mps
(``csrc/native/encoder.cpp``), and calling such a module takes them under PyTorch's own conditions. It is the call that
is replaced and not ``forward``, so that TorchScript compiles what it did before.

Some conditions are stricter than PyTorch's, because what mps gave before has to stay: a dropout that was left in
training mode drops out, a child that was put in a linear layer's place (a quantized one, one with adapters) is called,
the tanh form of gelu is used where it was asked for. Where a dispatch mode is entered, the parts of the layer are seen.

No lock is taken, and any thread may call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import module as _module

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

#: The parameters of the two `forward`s that the ways below are written for.
ENCODER_PARAMETERS = ("self", "src", "src_mask", "src_key_padding_mask", "is_causal")
ATTENTION_PARAMETERS = (
    "self", "query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights",
    "is_causal",
)  # fmt: skip

#: The children that an encoder layer calls, and what they have to be for the op to do the same.
_ENCODER_CHILDREN: tuple[tuple[str, type], ...] = (
    ("self_attn", nn.MultiheadAttention),
    ("linear1", nn.Linear),
    ("dropout", nn.Dropout),
    ("linear2", nn.Linear),
    ("norm1", nn.LayerNorm),
    ("norm2", nn.LayerNorm),
    ("dropout1", nn.Dropout),
    ("dropout2", nn.Dropout),
)


#: What _plain_moment asks, below torch. None of it is promised by PyTorch.
_QUESTIONS = (
    "_C._len_torch_dispatch_stack", "_C._get_tracing_state", "_C._functorch.peek_interpreter_stack",
    "is_autocast_enabled", "autograd.forward_ad._current_level", "nn.modules.module._has_any_global_hook",
    "backends.mha.get_fastpath_enabled", "compiler.is_compiling",
)  # fmt: skip


def missing() -> str | None:
    """A name that this PyTorch lacks and the ways below need."""
    for name in _QUESTIONS:
        try:
            operator.attrgetter(name)(torch)
        except AttributeError:
            return f"torch.{name}"
    return None


def _plain_moment() -> bool:
    """False where something wants to see or change what runs: a mode, a transform, a hook on all modules."""
    return (
        torch.backends.mha.get_fastpath_enabled()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None  # type: ignore[attr-defined]
        and torch.autograd.forward_ad._current_level < 0
        and not torch.is_autocast_enabled("mps")
        and not _module._has_any_global_hook()
    )


def _is_quiet(module: nn.Module, forward: Any) -> bool:
    """True where calling the module is calling this `forward`, in evaluation mode."""
    state = module.__dict__
    return (
        type(module).forward is forward
        and not state["training"]
        and not (state["_forward_hooks"] or state["_forward_pre_hooks"])
        and not (state["_backward_hooks"] or state["_backward_pre_hooks"])
        and state.get("_compiled_call_impl") is None
        and "forward" not in state
    )


def _is_input(x: Any) -> bool:
    return (
        type(x) in (torch.Tensor, nn.Parameter)
        and x.is_mps
        and x.layout is torch.strided
        and not x.is_nested
        and x.dim() == 3
        and x.dtype in _FLOATS
        and x.numel() != 0
    )


def _are_operands(x: torch.Tensor, parameters: tuple[Any, ...]) -> bool:
    """True where the op can take these, and no one wants a gradient or another __torch_function__."""
    wants = torch.is_grad_enabled()
    if wants and x.requires_grad:
        return False
    for p in parameters:
        if p is None or not p.is_mps or p.dtype is not x.dtype or (wants and p.requires_grad):
            return False
    return not torch.overrides.has_torch_function((x, *parameters))


def _attention_parameters(attention: nn.MultiheadAttention) -> tuple[Any, ...] | None:
    """The op's four parameters; None where the module needs more than they say."""
    out = attention._modules["out_proj"]
    if (
        not attention.batch_first
        or not attention._qkv_same_embed_dim
        or attention.num_heads % 2 != 0
        or attention.bias_k is not None
        or attention.bias_v is not None
        or attention.add_zero_attn
        or type(out) is not nn.modules.linear.NonDynamicallyQuantizableLinear
        or not _is_quiet(out, nn.Linear.forward)
    ):
        return None
    # Without the detour of __getattr__. A name that is no parameter, such as one of torch.nn.utils.prune, gives None.
    own = attention._parameters
    return own.get("in_proj_weight"), own.get("in_proj_bias"), *_weight_and_bias(out)


def _weight_and_bias(module: nn.Module) -> tuple[Any, Any]:
    own = module._parameters
    return own.get("weight"), own.get("bias")


def _merged(
    x: torch.Tensor, heads: int, mask: torch.Tensor | None, padding: torch.Tensor | None
) -> tuple[torch.Tensor | None, int | None] | None:
    """The masks as the op takes them, with its number for their kind; None for masks that are not for it."""
    if mask is None and padding is None:
        return None, None
    batch, length = x.shape[0], x.shape[1]
    for given in (mask, padding):
        if given is not None and not (
            type(given) is torch.Tensor and given.is_mps and given.dtype in (torch.bool, x.dtype)
        ):
            return None
        if given is not None and given.requires_grad:
            return None
    if padding is not None and padding.shape != (batch, length):
        return None
    if mask is None:
        return padding, 1
    if mask.shape == (length, length):
        if padding is None:
            return mask, 0
        whole = mask[None, None]
    elif mask.shape == (batch * heads, length, length):
        whole = mask.unflatten(0, (batch, heads))
    else:
        return None
    if padding is not None:
        if padding.dtype is not mask.dtype:
            return None
        hidden = padding[:, None, None, :]
        whole = whole | hidden if mask.dtype is torch.bool else whole + hidden
    return whole.expand(batch, heads, length, length), 2


def _encoder_layer(
    forward: Any, layer: nn.TransformerEncoderLayer, src: Any, mask: Any, padding: Any, is_causal: bool
) -> torch.Tensor | None:
    if not (_is_input(src) and _is_quiet(layer, forward) and _plain_moment()):
        return None
    children = layer._modules
    for name, kind in _ENCODER_CHILDREN:
        child = children.get(name)
        if type(child) is not kind or not _is_quiet(child, kind.forward):
            return None
    attention, linear1, _, linear2, norm1, norm2 = (children[name] for name, _ in _ENCODER_CHILDREN[:6])
    activation = layer.activation
    gelu = activation is F.gelu or (type(activation) is nn.GELU and activation.approximate == "none")
    if not gelu and activation is not F.relu and type(activation) is not nn.ReLU:
        return None
    if isinstance(activation, nn.Module) and not _is_quiet(activation, type(activation).forward):
        return None
    width = attention.embed_dim
    same = norm1.eps == norm2.eps and norm1.normalized_shape == norm2.normalized_shape == (width,)
    if not same or src.shape[2] != width or (is_causal and mask is None):
        return None
    first = _attention_parameters(attention)
    if first is None:
        return None
    second = (
        *_weight_and_bias(norm1), *_weight_and_bias(norm2), *_weight_and_bias(linear1), *_weight_and_bias(linear2)
    )  # fmt: skip
    merged = _merged(src, attention.num_heads, mask, padding)
    if merged is None or not _are_operands(src, first + second):
        return None
    return torch._transformer_encoder_layer_fwd(
        src, width, attention.num_heads, *first, gelu, layer.norm_first, norm1.eps, *second, *merged
    )


def _attention(
    forward: Any, module: nn.MultiheadAttention, query: Any, key: Any, value: Any, padding: Any, need_weights: bool,
    mask: Any, average: bool, is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor | None] | None:  # fmt: skip
    fits = query is key and key is value and _is_input(query) and _is_quiet(module, forward) and _plain_moment()
    if not fits or query.shape[2] != module.embed_dim or (is_causal and mask is None):
        return None
    parameters = _attention_parameters(module)
    if parameters is None or not _are_operands(query, parameters):
        return None
    merged = _merged(query, module.num_heads, mask, padding)
    if merged is None:
        return None
    result: tuple[torch.Tensor, torch.Tensor | None] = torch._native_multi_head_attention(
        query, key, value, module.embed_dim, module.num_heads, *parameters, merged[0], need_weights, average, merged[1]
    )
    return result


def _encoder_arguments(
    src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: Any = False
) -> tuple[Any, ...]:
    return src, src_mask, src_key_padding_mask, is_causal


def _attention_arguments(
    query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: Any = True, attn_mask: Any = None,
    average_attn_weights: Any = True, is_causal: Any = False,
) -> tuple[Any, ...]:  # fmt: skip
    return query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal


def _calling(forward: Any, arguments: Callable[..., tuple[Any, ...]], way: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Asked first: these look at all that is computed here.
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return nn.Module.__call__(self, *args, **kwargs)
        try:
            operands = arguments(*args, **kwargs)
        except TypeError:  # forward says it in its own name
            operands = None
        if operands is not None:
            made = way(forward, self, *operands)
            if made is not None:
                return made
        # Looked up at each call: torch.fx puts its own there for the time of a trace.
        return nn.Module.__call__(self, *args, **kwargs)

    return __call__


def encoder_layer_call(forward: Any) -> Callable[..., Any]:
    """``__call__`` of nn.TransformerEncoderLayer, whose own `forward` this is."""
    return _calling(forward, _encoder_arguments, _encoder_layer)


def attention_call(forward: Any) -> Callable[..., Any]:
    """``__call__`` of nn.MultiheadAttention, whose own `forward` this is."""
    return _calling(forward, _attention_arguments, _attention)
