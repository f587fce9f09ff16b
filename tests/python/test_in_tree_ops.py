"""Ops whose one kernel is that of PyTorch's own mps backend, by name: its macOS build calls some of them by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

aten = torch.ops.aten

SETTINGS = [
    dict(layers=layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias, projection=projection)
    for layers, bidirectional, batch_first, bias, projection in itertools.product(
        (1, 2), (False, True), (False, True), (False, True), (0, 3)
    )
]
TIME, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6


def states(layers: int, bidirectional: bool, projection: int) -> list[torch.Tensor]:
    count = layers * (2 if bidirectional else 1)
    return [torch.randn(count, BATCH, projection or HIDDEN), torch.randn(count, BATCH, HIDDEN)]


def on_mps(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().to("mps").requires_grad_(tensor.requires_grad) for tensor in tensors]


def close(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    assert len(actual) == len(expected)
    for ours, cpus in zip(actual, expected):
        assert ours.device.type == "mps"
        torch.testing.assert_close(ours.cpu(), cpus, rtol=1e-5, atol=1e-6)


class Lstm:
    """An LSTM on the CPU: its tensors, results and gradients."""

    def __init__(self, layers: int, bidirectional: bool, batch_first: bool, bias: bool, projection: int) -> None:
        torch.manual_seed(7)
        self.module = torch.nn.LSTM(
            FEATURES, HIDDEN, layers, bias, batch_first, bidirectional=bidirectional, proj_size=projection
        )
        shape = (BATCH, TIME, FEATURES) if batch_first else (TIME, BATCH, FEATURES)
        self.input = torch.randn(shape, requires_grad=True)
        self.hx = [state.requires_grad_() for state in states(layers, bidirectional, projection)]
        self.params = [weight.detach().requires_grad_() for weight in self.module._flat_weights]
        self.rest = (bias, layers, 0.0, True, bidirectional, batch_first)
        self.results = torch.lstm(self.input, self.hx, self.params, *self.rest)
        self.weights = [torch.randn_like(result) for result in self.results]
        self.leaves = [self.input, *self.hx, *self.params]
        self.gradients = torch.autograd.grad(self.results, self.leaves, self.weights)

    def on_mps(self) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        return on_mps([self.input])[0], on_mps(self.hx), on_mps(self.params)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda value: "-".join(str(v) for v in value.values()))
def test_lstm_and_its_gradients_are_the_cpus(settings: dict[str, int]) -> None:
    lstm = Lstm(**settings)  # type: ignore[arg-type]
    x, hx, params = lstm.on_mps()
    *results, z_state, cell_state, layers_outputs = aten._lstm_mps(x, hx, params, *lstm.rest)
    close(results, [result.detach() for result in lstm.results])
    leaves = [x, *hx, *params]
    weights = [weight.to("mps") for weight in lstm.weights]
    close(torch.autograd.grad(results, leaves, weights), lstm.gradients)
    # The same, asked for as the in-tree derivative asks.
    with torch.no_grad():
        grad_x, grad_hx, grad_params = aten.lstm_mps_backward(
            *weights, z_state, cell_state, x, layers_outputs, hx, params, *lstm.rest
        )
    close([grad_x, *grad_hx, *grad_params], lstm.gradients)


def test_lstm_runs_in_inference_mode_and_with_a_part_of_its_gradients() -> None:
    lstm = Lstm(layers=2, bidirectional=True, batch_first=True, bias=True, projection=0)
    with torch.inference_mode():
        x, hx, params = lstm.input.to("mps"), [h.to("mps") for h in lstm.hx], [p.to("mps") for p in lstm.params]
        results = aten._lstm_mps(x, hx, params, *lstm.rest)
        close(results[:3], [result.detach() for result in lstm.results])
        back = aten.lstm_mps_backward(None, None, lstm.weights[2].to("mps"), *results[3:5], x, results[5], hx, params, *lstm.rest)
    _, _, cell = torch.lstm(lstm.input, lstm.hx, lstm.params, *lstm.rest)
    expected = torch.autograd.grad(cell, lstm.leaves, lstm.weights[2], allow_unused=True)
    expected = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(lstm.leaves, expected)]
    close([back[0], *back[1], *back[2]], expected)
    nothing = aten.lstm_mps_backward(None, None, None, *results[3:5], x.clone(), results[5], hx, params, *lstm.rest)
    assert not nothing[0].any() and not any(grad.any() for grad in [*nothing[1], *nothing[2]])


def test_lstm_drops_between_its_layers_and_says_where_that_has_no_gradient() -> None:
    lstm = Lstm(layers=2, bidirectional=False, batch_first=False, bias=True, projection=0)
    x, hx, params = lstm.on_mps()
    rest = (True, 2, 1.0, True, False, False)
    # All is dropped, on the CPU as well, so that chance has no part in it.
    results = aten._lstm_mps(x, hx, params, *rest)
    expected = torch.lstm(lstm.input, lstm.hx, lstm.params, *rest)
    close(results[:3], [result.detach() for result in expected])
    grads = torch.autograd.grad(results[0].sum(), [x, *params], allow_unused=True)
    cpus = torch.autograd.grad(expected[0].sum(), [lstm.input, *lstm.params], allow_unused=True)
    close(grads, cpus)
    with pytest.raises(NotImplementedError, match="what was dropped between the layers"):
        aten.lstm_mps_backward(results[0], None, None, *results[3:5], x, results[5], hx, params, *rest)
    # Not in training, nothing is dropped.
    rest = (True, 2, 1.0, False, False, False)
    close(aten._lstm_mps(x, hx, params, *rest)[:1], [torch.lstm(lstm.input, lstm.hx, lstm.params, *rest)[0].detach()])


def test_lstm_names_what_it_cannot_take() -> None:
    lstm = Lstm(layers=1, bidirectional=False, batch_first=False, bias=True, projection=0)
    x, hx, params = lstm.on_mps()
    with pytest.raises(RuntimeError, match="two states are needed.*got 1"):
        aten._lstm_mps(x, hx[:1], params, *lstm.rest)
    with pytest.raises(RuntimeError, match="time, batch and feature; got 2"):
        aten._lstm_mps(x[0], hx, params, *lstm.rest)
    with pytest.raises(RuntimeError, match="at least one step"):
        aten._lstm_mps(x[:0], hx, params, *lstm.rest)


GEOMETRIES = {
    "plain": dict(channels=4, size=(7, 6), kernel=(3, 3), padding=[0, 0], stride=[1, 1], dilation=[1, 1], groups=1),
    "strided": dict(channels=4, size=(9, 8), kernel=(3, 2), padding=[1, 0], stride=[2, 3], dilation=[1, 1], groups=2),
    "dilated": dict(channels=4, size=(9, 9), kernel=(3, 3), padding=[2, 2], stride=[1, 1], dilation=[2, 1], groups=1),
    "depthwise": dict(channels=4, size=(7, 7), kernel=(3, 3), padding=[1, 1], stride=[1, 1], dilation=[1, 1], groups=4),
    "1d": dict(channels=4, size=(9,), kernel=(3,), padding=[1], stride=[2], dilation=[1], groups=1),
    "3d": dict(channels=4, size=(5, 4, 6), kernel=(2, 2, 3), padding=[1] * 3, stride=[1] * 3, dilation=[1] * 3, groups=1),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
def test_convolutions_and_their_gradients_are_the_cpus(geometry: dict, transposed: bool) -> None:
    torch.manual_seed(3)
    channels, groups = geometry["channels"], geometry["groups"]
    padding, stride, dilation = geometry["padding"], geometry["stride"], geometry["dilation"]
    x = torch.randn(2, channels, *geometry["size"], requires_grad=True)
    weight = torch.randn(channels if transposed else 8, (8 if transposed else channels) // groups, *geometry["kernel"], requires_grad=True)
    bias = torch.randn(8, requires_grad=True)
    extra = [1 if step > 1 else 0 for step in stride]
    more = extra if transposed else [0] * len(stride)
    y = torch.convolution(x, weight, None if transposed else bias, stride, padding, dilation, transposed, more, groups)
    grad = torch.randn_like(y)
    inputs = [x, weight] if transposed else [x, weight, bias]
    expected = torch.autograd.grad(y, inputs, grad)
    ours = on_mps(inputs)
    if transposed:
        args = (padding, extra, stride, dilation, groups)
        result = aten._mps_convolution_transpose(*ours, *args)
        back = aten.mps_convolution_transpose_backward(ours[0], grad.to("mps"), ours[1], *args, [True, True])
        half = aten.mps_convolution_transpose_backward(ours[0], grad.to("mps"), ours[1], *args, [False, True])
    else:
        args = (padding, stride, dilation, groups)
        result = aten._mps_convolution(*ours, *args)
        back = aten.mps_convolution_backward(ours[0], grad.to("mps"), ours[1], *args, [True, True, True])
        half = aten.mps_convolution_backward(ours[0], grad.to("mps"), ours[1], *args, [False, True, True])
        close([aten._mps_convolution(ours[0], ours[1], None, *args)], [(y - bias.view(-1, *[1] * len(stride))).detach()])
    close([result], [y.detach()])
    close(back, expected)
    assert half[0] is None
    close(half[1:], expected[1:])
    # By the derivative that PyTorch has for them.
    close(torch.autograd.grad(result, ours, grad.to("mps")), expected)


@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_the_cpus(mask: str, scale: float | None) -> None:
    torch.manual_seed(5)
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))
    given = {"bool": torch.rand(5, 7) > 0.3, "float": torch.randn(5, 7)}.get(mask)
    if given is not None and given.dtype == torch.bool:
        given[:, 0] = True
    causal = mask == "causal"
    expected, weights = aten._scaled_dot_product_attention_math(q, k, v, given, 0.0, causal, None, scale=scale)
    ours = on_mps([q, k, v])
    seen = None if given is None else given.to("mps")
    result = aten._scaled_dot_product_attention_math_for_mps(*ours, seen, 0.0, causal, None, scale=scale)
    close(result, [expected.detach(), weights.detach()])
    grad = torch.randn_like(expected)
    close(
        torch.autograd.grad(result[0], ours, grad.to("mps")), torch.autograd.grad(expected, [q, k, v], grad)
    )


@pytest.mark.skipif(
    "enable_gqa" not in str(aten._scaled_dot_product_attention_math_for_mps.default._schema),
    reason="this PyTorch's op takes no shared heads",
)
def test_attention_shares_the_heads_of_key_and_value() -> None:
    q, k, v = (torch.randn(2, heads, 5, 8) for heads in (6, 2, 2))
    expected = aten._scaled_dot_product_attention_math(q, k, v, enable_gqa=True)
    ours = aten._scaled_dot_product_attention_math_for_mps(*on_mps([q, k, v]), enable_gqa=True)
    close(ours, expected)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_the_gradient_of_linear_is_the_cpus(shape: tuple[int, ...]) -> None:
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in (shape, (5, 4), (5,)))
    y = F.linear(x, weight, bias)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, weight, bias], grad)
    ours = [t.detach().to("mps") for t in (x, grad, weight)]
    close(aten.linear_backward(*ours, [True, True, True]), expected)
    half = aten.linear_backward(*ours, [False, True, False])
    assert half[0] is None and half[2] is None
    close(half[1:2], expected[1:2])


def test_the_gradient_of_max_pool2d_is_the_cpus() -> None:
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    settings = ([3, 2], [2, 2], [1, 0], [1, 2], True)
    y = torch.max_pool2d(x, *settings)
    grad = torch.randn_like(y)
    ours = aten.max_pool2d_backward(grad.to("mps"), x.detach().to("mps"), *settings)
    close([ours], torch.autograd.grad(y, x, grad))
