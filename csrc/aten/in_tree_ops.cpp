// Ops whose one kernel is that of PyTorch's own mps backend, done with the ops that every device has. PyTorch's macOS
// build asks for some of them by itself where others ask for none: torch.lstm for _lstm_mps, a convolution and its
// gradient for _mps_convolution and its like. See the table in docs/metal.md.
#include <ATen/Functions.h>
#include <ATen/core/stack.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <tuple>
#include <vector>

#include "aten/kernels.h"

namespace rivulet {

namespace {

using at::IntArrayRef;
using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;

// --- LSTM ---

// output, hidden state, cell state. torch.lstm would come back to _lstm_mps; its form for sequences of many lengths, of
// which all are the same here, is the one that knows no mps.
std::tuple<Tensor, Tensor, Tensor> lstm_of_steps(
    const Tensor& input, TensorList hx, TensorList params, bool has_biases, int64_t layers, double dropout, bool train,
    bool bidirectional, bool batch_first) {
  TORCH_CHECK(hx.size() == 2, "_lstm_mps: two states are needed, the hidden one and the cell's; got ", hx.size());
  TORCH_CHECK(
      input.dim() == 3, "_lstm_mps: the input has the dimensions time, batch and feature; got ", input.dim(),
      " dimensions");
  Tensor steps = batch_first ? input.transpose(0, 1) : input;
  auto time = steps.sym_size(0);
  auto batch = steps.sym_size(1);
  TORCH_CHECK(time > 0, "_lstm_mps: expected a sequence of at least one step");
  auto lengths = at::full_symint({time}, batch.guard_int(__FILE__, __LINE__), at::TensorOptions(at::kLong));
  auto [output, hidden, cell] = at::lstm(
      steps.reshape_symint({time * batch, steps.sym_size(2)}), lengths, hx, params, has_biases, layers, dropout, train,
      bidirectional);
  output = output.reshape_symint({time, batch, output.sym_size(1)});
  return {batch_first ? output.transpose(0, 1) : output, hidden, cell};
}

// The last three results are what the in-tree backend's gradient kernel wants of its forward one. Here the gradient is
// that of the parts.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm(
    const Tensor& input, TensorList hx, TensorList params, bool has_biases, int64_t layers, double dropout, bool train,
    bool bidirectional, bool batch_first) {
  auto [output, hidden, cell] =
      lstm_of_steps(input, hx, params, has_biases, layers, dropout, train, bidirectional, batch_first);
  auto none = [&] { return at::empty({0}, input.options().requires_grad(false)); };
  return {output, hidden, cell, none(), none(), none()};
}

std::vector<Tensor> leaves(TensorList tensors) {
  std::vector<Tensor> fresh;
  for (const Tensor& tensor : tensors) {
    // A tensor of inference mode takes no part in autograd; its copy does.
    fresh.push_back((tensor.is_inference() ? tensor.clone() : tensor.detach()).requires_grad_());
  }
  return fresh;
}

// Runs the forward once more, whatever the forward kept.
std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>> lstm_backward(
    const OptionalTensor& grad_output, const OptionalTensor& grad_hidden, const OptionalTensor& grad_cell,
    const Tensor& /*z_state*/, const Tensor& /*cell_state_fwd*/, const Tensor& input, const Tensor& /*layersOutputs*/,
    TensorList hx, TensorList params, bool has_biases, int64_t layers, double dropout, bool train, bool bidirectional,
    bool batch_first) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      !train || dropout == 0 || layers == 1,
      "lstm_mps_backward: what was dropped between the layers is not among its arguments, so there is no gradient for "
      "dropout ",
      dropout, " in training; torch.lstm has one");
  // With autograd, wherever this is called from.
  c10::InferenceMode live(false);
  auto x = leaves({input});
  auto states = leaves(hx);
  auto weights = leaves(params);
  auto [output, hidden, cell] =
      lstm_of_steps(x[0], states, weights, has_biases, layers, dropout, train, bidirectional, batch_first);
  std::vector<Tensor> results, gradients;
  auto add = [&](const Tensor& result, const OptionalTensor& gradient) {
    if (gradient.has_value() && gradient->defined()) {
      results.push_back(result);
      gradients.push_back(*gradient);
    }
  };
  add(output, grad_output);
  add(hidden, grad_hidden);
  add(cell, grad_cell);
  std::vector<Tensor> inputs{x[0]};
  inputs.insert(inputs.end(), states.begin(), states.end());
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  auto found = results.empty()
      ? std::vector<Tensor>(inputs.size())
      : torch::autograd::grad(results, inputs, gradients, std::nullopt, false, /*allow_unused=*/true);
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i].defined()) {
      found[i] = at::zeros_like(inputs[i]);
    }
  }
  auto after_states = found.begin() + 1 + static_cast<int64_t>(states.size());
  return {found[0], {found.begin() + 1, after_states}, {after_states, found.end()}};
}

// --- convolutions ---

std::vector<int64_t> zeros(IntArrayRef like) {
  return std::vector<int64_t>(like.size(), 0);
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, IntArrayRef padding, IntArrayRef stride,
    IntArrayRef dilation, int64_t groups) {
  return at::convolution(x, weight, bias, stride, padding, dilation, false, zeros(padding), groups);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& x, const Tensor& grad, const Tensor& weight, IntArrayRef padding, IntArrayRef stride,
    IntArrayRef dilation, int64_t groups, std::array<bool, 3> wanted) {
  return at::convolution_backward(
      grad, x, weight, IntArrayRef{weight.size(0)}, stride, padding, dilation, false, zeros(padding), groups, wanted);
}

Tensor convolution_transpose(
    const Tensor& x, const Tensor& weight, IntArrayRef padding, IntArrayRef output_padding, IntArrayRef stride,
    IntArrayRef dilation, int64_t groups) {
  return at::convolution(x, weight, std::nullopt, stride, padding, dilation, true, output_padding, groups);
}

std::tuple<Tensor, Tensor> convolution_transpose_backward(
    const Tensor& x, const Tensor& grad, const Tensor& weight, IntArrayRef padding, IntArrayRef output_padding,
    IntArrayRef stride, IntArrayRef dilation, int64_t groups, std::array<bool, 2> wanted) {
  auto [grad_x, grad_weight, none] = at::convolution_backward(
      grad, x, weight, std::nullopt, stride, padding, dilation, true, output_padding, groups,
      {wanted[0], wanted[1], false});
  return {grad_x, grad_weight};
}

// --- the rest ---

// Boxed, since newer versions of PyTorch have one argument more: whether heads of key and value are shared.
void attention(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  size_t count = op.schema().arguments().size();
  auto argument = [&](size_t index) -> const c10::IValue& { return torch::jit::peek(*stack, index, count); };
  auto [output, weights] = at::_scaled_dot_product_attention_math(
      argument(0).toTensor(), argument(1).toTensor(), argument(2).toTensor(), argument(3).toOptional<Tensor>(),
      argument(4).toDouble(), argument(5).toBool(), argument(6).toOptional<Tensor>(),
      argument(7).toOptional<double>(), count > 8 && argument(8).toBool());
  torch::jit::drop(*stack, count);
  torch::jit::push(*stack, std::move(output), std::move(weights));
}

std::tuple<Tensor, Tensor, Tensor> linear_backward(
    const Tensor& x, const Tensor& grad, const Tensor& weight, std::array<bool, 3> wanted) {
  Tensor grad_rows = grad.reshape({-1, grad.size(-1)});
  return {
      wanted[0] ? grad.matmul(weight) : Tensor(),
      wanted[1] ? grad_rows.t().mm(x.reshape({-1, x.size(-1)})) : Tensor(),
      wanted[2] ? grad_rows.sum(0) : Tensor()};
}

Tensor max_pool2d_backward(
    const Tensor& grad, const Tensor& x, IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool ceil_mode) {
  auto [_, indices] = at::max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode);
  return at::max_pool2d_with_indices_backward(grad, x, kernel, stride, padding, dilation, ceil_mode, indices);
}

} // namespace

void register_in_tree_ops(torch::Library& aten, torch::Library& autograd) {
  // At autograd's key too: the derivative that PyTorch has for the first wants the in-tree kernel's three results, and
  // for the second it has none.
  for (auto* library : {&aten, &autograd}) {
    library->impl("_lstm_mps", lstm);
    library->impl(
        "_scaled_dot_product_attention_math_for_mps", torch::CppFunction::makeFromBoxedFunction<&attention>());
  }
  aten.impl("lstm_mps_backward", lstm_backward);
  aten.impl("_mps_convolution", convolution);
  aten.impl("mps_convolution_backward", convolution_backward);
  aten.impl("_mps_convolution_transpose", convolution_transpose);
  aten.impl("mps_convolution_transpose_backward", convolution_transpose_backward);
  aten.impl("linear_backward", linear_backward);
  aten.impl("max_pool2d_backward", max_pool2d_backward);
}

} // namespace rivulet
