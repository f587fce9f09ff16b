// Changes of resolution, and the blocks of an image as columns.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/UpSample.h>

#include <array>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/nested.h"
#include "native/scope.h"
#include "native/volumes.h"

namespace rivulet {

namespace {

using at::IntArrayRef;
using at::Tensor;
using Factor = std::optional<double>;

// Modes of rivulet_resample.
enum Resampling : uint32_t { kNearest = 0, kNearestExact = 1, kLinear = 2, kLinearAligned = 3 };

// `factors` as the user gave them, of the last dimensions.
template <size_t spatial>
bool resample(
    Resampling mode, bool backward, const Tensor& out, const Tensor& x, const std::array<Factor, spatial>& factors) {
  if (out.numel() == 0 || x.numel() == 0) {
    return false;
  }
  const Tensor& small = backward ? out : x;
  const Tensor& large = backward ? x : out;
  std::array<float, 3> scale{1, 1, 1};
  for (size_t k = 0; k < spatial; ++k) {
    int64_t dim = small.dim() - static_cast<int64_t>(spatial - k);
    scale[3 - spatial + k] = at::native::area_pixel_compute_scale<float>(
        small.size(dim), large.size(dim), mode == kLinearAligned, factors[k]);
  }
  DenseResult result(out);
  Views views;
  return views.output(volume(result.dense, spatial)) && views.input(volume(x.contiguous(), spatial)) &&
      views.recorded(rivulet_resample(mode, backward, views.at(0), views.at(1), scale.data())) && result.finish();
}

template <Resampling mode, bool backward>
struct Nearest {
  template <typename... Factors>
  bool operator()(const Tensor& out, const Tensor& x, const Factors&... factors) const {
    return resample<sizeof...(Factors)>(mode, backward, out, x, {factors...});
  }
};

template <bool backward>
struct Linear {
  template <typename... Factors>
  bool operator()(const Tensor& out, const Tensor& x, bool aligned, const Factors&... factors) const {
    return resample<sizeof...(Factors)>(aligned ? kLinearAligned : kLinear, backward, out, x, {factors...});
  }
};

// Kernel, stride, padding and dilation of height and width.
std::optional<std::array<uint32_t, 8>> blocks_of(
    IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation) {
  std::array<uint32_t, 8> geometry;
  size_t next = 0;
  for (const auto& part : {kernel, stride, padding, dilation}) {
    if (part.size() != 2 || part[0] < 0 || part[1] < 0) {
      return std::nullopt;
    }
    geometry[next++] = static_cast<uint32_t>(part[0]);
    geometry[next++] = static_cast<uint32_t>(part[1]);
  }
  for (size_t k : {0, 1, 2, 3, 6, 7}) {
    if (geometry[k] == 0) {
      return std::nullopt;
    }
  }
  return geometry;
}

int64_t blocks_along(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

bool unfold_image(bool fold, const Tensor& out, const Tensor& x, const std::array<uint32_t, 8>& geometry) {
  Views views;
  return views.output(out) && views.input(x) &&
      views.recorded(rivulet_unfold(fold, views.at(0), views.at(1), geometry.data()));
}

Tensor im2col(const Tensor& x, IntArrayRef kernel, IntArrayRef dilation, IntArrayRef padding, IntArrayRef stride) {
  auto geometry = blocks_of(kernel, stride, padding, dilation);
  bool batched = x.dim() == 4;
  if (geometry && x.numel() != 0 && (batched || x.dim() == 3)) {
    Tensor image = batched ? x : x.unsqueeze(0);
    int64_t rows = blocks_along(image.size(2), kernel[0], stride[0], padding[0], dilation[0]);
    int64_t columns = blocks_along(image.size(3), kernel[1], stride[1], padding[1], dilation[1]);
    if (rows > 0 && columns > 0) {
      Tensor out = at::empty({image.size(0), image.size(1) * kernel[0] * kernel[1], rows * columns}, x.options());
      if (unfold_image(false, out, image.contiguous(), *geometry)) {
        return batched ? out : out.squeeze(0);
      }
    }
  }
  return on_the_host<at::_ops::im2col>(x, kernel, dilation, padding, stride);
}

Tensor col2im(
    const Tensor& x, c10::SymIntArrayRef size, IntArrayRef kernel, IntArrayRef dilation, IntArrayRef padding,
    IntArrayRef stride) {
  auto geometry = blocks_of(kernel, stride, padding, dilation);
  bool batched = x.dim() == 3;
  if (geometry && x.numel() != 0 && size.size() == 2 && (batched || x.dim() == 2) &&
      c10::isFloatingType(x.scalar_type())) {
    Tensor columns = batched ? x : x.unsqueeze(0);
    int64_t height = size[0].guard_int(__FILE__, __LINE__);
    int64_t width = size[1].guard_int(__FILE__, __LINE__);
    int64_t block = kernel[0] * kernel[1];
    int64_t count = blocks_along(height, kernel[0], stride[0], padding[0], dilation[0]) *
        blocks_along(width, kernel[1], stride[1], padding[1], dilation[1]);
    if (height > 0 && width > 0 && columns.size(1) % block == 0 && count == columns.size(2)) {
      Tensor out = at::empty({columns.size(0), columns.size(1) / block, height, width}, x.options());
      if (unfold_image(true, out, columns.contiguous(), *geometry)) {
        return batched ? out : out.squeeze(0);
      }
    }
  }
  return on_the_host<at::_ops::col2im>(x, size, kernel, dilation, padding, stride);
}

} // namespace

void register_nested_resampling(Nested& nested) {
  nested.impl("im2col", im2col);
  nested.impl("im2col.out", OnTheHost<at::_ops::im2col_out>::call);
  nested.impl("col2im", col2im);
  nested.impl("col2im.out", OnTheHost<at::_ops::col2im_out>::call);
}

void hook_resampling() {
  using namespace at::native;
  hook(upsample_nearest1d_kernel, Nearest<kNearest, false>{});
  hook(upsample_nearest2d_kernel, Nearest<kNearest, false>{});
  hook(upsample_nearest3d_kernel, Nearest<kNearest, false>{});
  hook(_upsample_nearest_exact1d_kernel, Nearest<kNearestExact, false>{});
  hook(_upsample_nearest_exact2d_kernel, Nearest<kNearestExact, false>{});
  hook(_upsample_nearest_exact3d_kernel, Nearest<kNearestExact, false>{});
  hook(upsample_nearest1d_backward_kernel, Nearest<kNearest, true>{});
  hook(upsample_nearest2d_backward_kernel, Nearest<kNearest, true>{});
  hook(upsample_nearest3d_backward_kernel, Nearest<kNearest, true>{});
  hook(_upsample_nearest_exact1d_backward_kernel, Nearest<kNearestExact, true>{});
  hook(_upsample_nearest_exact2d_backward_kernel, Nearest<kNearestExact, true>{});
  hook(_upsample_nearest_exact3d_backward_kernel, Nearest<kNearestExact, true>{});
  hook(upsample_linear1d_kernel, Linear<false>{});
  hook(upsample_bilinear2d_kernel, Linear<false>{});
  hook(upsample_trilinear3d_kernel, Linear<false>{});
  hook(upsample_linear1d_backward_kernel, Linear<true>{});
  hook(upsample_bilinear2d_backward_kernel, Linear<true>{});
  hook(upsample_trilinear3d_backward_kernel, Linear<true>{});
}

} // namespace rivulet
