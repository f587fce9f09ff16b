// What the hooks share: calling a kernel with the operands of an iterator.
#pragma once
#include <ATen/TensorIterator.h>

#include <algorithm>
#include <initializer_list>

#include "native/views.h"
#include "runtime/status.h"

namespace rivulet {

// True where the kernel was recorded, false where there is none. Raises everything else.
inline bool recorded(int32_t status) {
  if (C10_LIKELY(status == RIVULET_OK)) {
    return true;
  }
  if (status == RIVULET_NO_KERNEL) {
    if (getenv("RIV_EXPLAIN")) fprintf(stderr, "no kernel: %s\n", rivulet_last_error());
    return false;
  }
  raise_status(status);
}

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

// Operands in any order; `views` begins with the output.
bool call_pointwise(
    uint32_t op, c10::ScalarType common, const Views& views, std::initializer_list<c10::Scalar> scalars = {});

// A hook: the op of this name with the stub's scalars, in their order.
template <Name name>
struct Pointwise {
  template <typename... Scalars>
  bool operator()(const at::TensorIteratorBase& iter, const Scalars&... scalars) const {
    return call_pointwise(pointwise_op<name>(), iter, {c10::Scalar(scalars)...});
  }
};

} // namespace rivulet
