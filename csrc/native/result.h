// PyTorch's meta classes (checks and layout of an op) with a result of ours.
#pragma once
#include <ATen/TensorIterator.h>
#include <ATen/TensorMeta.h>

#include <type_traits>

namespace rivulet {

// `Outcome::settle(out, sizes, strides, options)` makes the result, or fits the one that `out` holds already. The
// arguments after the options (names of dimensions, which later versions of PyTorch have not) are passed on.
template <
    typename Meta, typename Outcome, typename Signature = decltype(&at::impl::MetaBase::set_output_raw_strided)>
struct Result;

template <typename Meta, typename Outcome, typename... Names>
struct Result<
    Meta, Outcome,
    void (at::impl::MetaBase::*)(int64_t, at::IntArrayRef, at::IntArrayRef, at::TensorOptions, Names...)>
    final : Meta {
  at::Tensor out;

  Result() = default;
  explicit Result(at::Tensor given) : out(std::move(given)) {}

  void set_output_raw_strided(
      int64_t index, at::IntArrayRef sizes, at::IntArrayRef strides, at::TensorOptions options,
      Names... names) override {
    Outcome::settle(out, sizes, strides, options);
    if constexpr (std::is_base_of_v<at::TensorIteratorBase, Meta>) {
      at::TensorIteratorBase::set_output_raw_strided(index, sizes, strides, options, names...);
    }
  }
  void set_output_strided(
      int64_t index, at::IntArrayRef sizes, at::IntArrayRef strides, at::TensorOptions options,
      Names... names) override {
    set_output_raw_strided(index, sizes, strides, options, names...);
  }
  const at::Tensor& maybe_get_output(int64_t) override {
    return out;
  }
};

} // namespace rivulet
