// What the hooks share: calling a kernel with the operands of an iterator.
#pragma once
#include <ATen/TensorIterator.h>

#include <algorithm>
#include <initializer_list>

#include "native/views.h"
#include "runtime/status.h"

namespace rivulet {

// A name as a template argument.
struct Name {
  char text[32]{};
  template <size_t size>
  consteval Name(const char (&literal)[size]) {
    std::copy_n(literal, size, text);
  }
};

template <Name name>
uint32_t pointwise_op() {
  static const uint32_t op = rivulet_pointwise_op(name.text);
  return op;
}

template <Name name>
uint32_t reduce_op() {
  static const uint32_t op = rivulet_reduce_op(name.text);
  return op;
}

// An op in the order of an iterator's operands. The CPU's iterators bring all inputs to the type that is computed in.
bool call_pointwise(
    uint32_t op, const at::TensorIteratorBase& iter, std::initializer_list<c10::Scalar> scalars = {});

// Operands in any order; `views` begins with the output. Numbers alone are the CPU's affair.
bool call_pointwise(
    uint32_t op, c10::ScalarType common, Views& views, std::initializer_list<c10::Scalar> scalars = {});

// A hook: the op of this name with the stub's scalars, in their order.
template <Name name>
struct Pointwise {
  template <typename... Scalars>
  bool operator()(const at::TensorIteratorBase& iter, const Scalars&... scalars) const {
    return call_pointwise(pointwise_op<name>(), iter, {c10::Scalar(scalars)...});
  }
};

// The same where the stub gives the gradient after the other inputs; kernels take it first.
template <Name name>
struct GradientLast {
  template <typename... Scalars>
  bool operator()(const at::TensorIteratorBase& iter, const Scalars&... scalars) const {
    if (iter.numel() == 0) {
      return true;
    }
    Views views;
    if (!views.iterator(iter)) {
      return false;
    }
    size_t gradient = iter.ninputs();
    for (size_t input = 1; input < gradient; ++input) {
      views.swap(input, gradient);
    }
    return call_pointwise(pointwise_op<name>(), iter.dtype(0), views, {c10::Scalar(scalars)...});
  }
};

} // namespace rivulet
