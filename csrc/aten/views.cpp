#include <ATen/NativeFunctions.h>

#include "aten/kernels.h"

namespace rivulet {

namespace {

// A hint that adds nothing: the runtime stamps every use of the memory with its stream.
void record_stream(at::Tensor&, c10::Stream stream) {
  TORCH_CHECK(
      stream.device_type() == c10::kMPS,
      "record_stream: expected a stream of the mps device but got one of ",
      stream.device());
}

} // namespace

// These kernels of PyTorch look at sizes and strides alone and work for any device.
void register_views(torch::Library& aten) {
  aten.impl("view", at::native::view);
  aten.impl("as_strided", at::native::as_strided_tensorimpl);
  aten.impl("_reshape_alias", at::native::_reshape_alias);
  aten.impl("unfold", at::native::unfold);
  aten.impl("view_as_real", at::native::view_as_real);
  aten.impl("view_as_complex", at::native::view_as_complex);
  aten.impl("record_stream", record_stream);
}

} // namespace rivulet
