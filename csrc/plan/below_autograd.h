// What a plan leaves out: autograd, and what the user's Python has switched on for eager ops.
#pragma once
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace rivulet::plan {

struct BelowAutograd {
  c10::impl::ExcludeDispatchKeyGuard keys{
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset};
  at::AutoGradMode no_grad{false};
};

} // namespace rivulet::plan
