#include "aten/hot.h"
#include "aten/kernels.h"

namespace rivulet {

namespace {

namespace ops = at::_ops;

} // namespace

void register_hot_ops(torch::Library& aten) {
  hot::take_all<
      ops::add_Tensor, ops::sub_Tensor, ops::mul_Tensor, ops::div_Tensor, ops::maximum, ops::minimum,
      ops::pow_Tensor_Scalar>(aten);
  hot::take_all<ops::add__Tensor, ops::sub__Tensor, ops::mul__Tensor, ops::div__Tensor>(aten);
  hot::take_all<
      ops::relu, ops::gelu, ops::silu, ops::tanh, ops::sigmoid, ops::exp, ops::log, ops::sqrt, ops::rsqrt,
      ops::neg, ops::abs, ops::sin, ops::cos, ops::erf, ops::reciprocal>(aten);
  hot::take_all<ops::relu_, ops::silu_, ops::tanh_, ops::sigmoid_, ops::exp_, ops::neg_>(aten);
  hot::take_all<
      ops::eq_Tensor, ops::ne_Tensor, ops::lt_Tensor, ops::le_Tensor, ops::gt_Tensor, ops::ge_Tensor>(aten);
  hot::take_all<
      ops::eq_Scalar, ops::ne_Scalar, ops::lt_Scalar, ops::le_Scalar, ops::gt_Scalar, ops::ge_Scalar>(aten);
  hot::take_all<ops::bitwise_not, ops::bitwise_and_Tensor, ops::bitwise_or_Tensor, ops::logical_not>(aten);
  hot::take_all<
      ops::mm, ops::bmm, ops::addmm, ops::baddbmm, ops::native_layer_norm, ops::_softmax,
      ops::_log_softmax>(aten);
  hot::take_all<
      ops::_scaled_dot_product_flash_attention_for_cpu, ops::where_self, ops::masked_fill_Scalar,
      ops::index_select, ops::embedding>(aten);
  hot::take_all<
      ops::sum_dim_IntList, ops::mean_dim, ops::argmax, ops::cumsum, ops::gather, ops::fill__Scalar,
      ops::zero_>(aten);
}

} // namespace rivulet
