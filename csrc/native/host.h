// The way of an op without a kernel, inside a native op.
#pragma once
#include <type_traits>
#include <utility>

#include "native/scope.h"

namespace rivulet::host {

template <typename Op, typename Signature = typename Op::schema>
struct OnTheHost;

template <typename Op, typename Outcome, typename... Args>
struct OnTheHost<Op, Outcome(Args...)> {
  static Outcome call(Args... args) {
    HostSection section;
    (section.note(args), ...);
    section.begin();
    return Op::redispatch(kCpu, std::forward<Args>(args)...);
  }
};

// PyTorch's CPU kernel of the op, in a HostSection.
template <typename Op, typename... Given>
decltype(auto) on_the_host(Given&&... given) {
  return OnTheHost<Op>::call(std::forward<Given>(given)...);
}

} // namespace rivulet::host
