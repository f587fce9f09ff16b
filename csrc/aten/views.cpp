#include <ATen/NativeFunctions.h>

#include "aten/kernels.h"

namespace rivulet {

// These kernels of PyTorch look at sizes and strides alone and work for any device.
void register_views(torch::Library& aten) {
  aten.impl("view", at::native::view);
  aten.impl("as_strided", at::native::as_strided_tensorimpl);
  aten.impl("_reshape_alias", at::native::_reshape_alias);
  aten.impl("unfold", at::native::unfold);
  aten.impl("view_as_real", at::native::view_as_real);
  aten.impl("view_as_complex", at::native::view_as_complex);
}

} // namespace rivulet
