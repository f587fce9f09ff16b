// Pooling, and the shuffles of channels.
#include <ATen/Functions.h>
#include <ATen/Operators.h>
#include <ATen/native/AdaptivePooling.h>
#include <ATen/native/Pool.h>
#include <ATen/native/cpu/ChannelShuffleKernel.h>
#include <ATen/native/cpu/MaxUnpoolKernel.h>
#include <ATen/native/cpu/PixelShuffleKernel.h>

#include <array>

#include "native/call.h"
#include "native/hook.h"
#include "native/hooks.h"
#include "native/volumes.h"

namespace rivulet {

namespace {

using at::Tensor;

enum Pooling : uint32_t { kMaximumPlace = 0, kAverage = 1, kAverageGradient = 2 };

// Kernel, stride, padding and dilation, each of depth, height and width.
using Geometry12 = std::array<uint32_t, 12>;

Geometry12 flat(std::array<int64_t, 2> kernel, std::array<int64_t, 2> stride, std::array<int64_t, 2> padding,
                std::array<int64_t, 2> dilation = {1, 1}) {
  auto at = [](int64_t value) { return static_cast<uint32_t>(value); };
  return {1, at(kernel[0]), at(kernel[1]), 1, at(stride[0]), at(stride[1]),
          0, at(padding[0]), at(padding[1]), 1, at(dilation[0]), at(dilation[1])};
}

Geometry12 solid(std::array<int64_t, 3> kernel, std::array<int64_t, 3> stride, std::array<int64_t, 3> padding,
                 std::array<int64_t, 3> dilation = {1, 1, 1}) {
  Geometry12 geometry;
  size_t next = 0;
  for (const auto& part : {kernel, stride, padding, dilation}) {
    for (int64_t value : part) {
      geometry[next++] = static_cast<uint32_t>(value);
    }
  }
  return geometry;
}

// `geometry` is null for adaptive windows.
bool pool_maximum(
    const Tensor& out, const Tensor& places, const Tensor& x, int64_t spatial, const Geometry12* geometry) {
  if (out.numel() == 0) {
    return true;
  }
  DenseResult values(out);
  DenseResult indices(places);
  Views views;
  return views.output(volume(values.dense, spatial)) && views.output(volume(indices.dense, spatial)) &&
      views.input(volume(x.contiguous(), spatial)) &&
      views.recorded(rivulet_pool(
          kMaximumPlace, views.at(0), views.at(1), views.at(2), geometry ? geometry->data() : nullptr, 0, 0)) &&
      values.finish() && indices.finish();
}

// Elements of a pooled side to the places that it kept: alone (a pooling's way back), or added (its gradient).
bool to_places(bool added, const Tensor& out, const Tensor& x, const Tensor& places, int64_t spatial) {
  if (out.numel() == 0 || x.numel() == 0) {
    return false;
  }
  DenseResult result(out);
  result.dense.zero_();
  auto planes = [&](const Tensor& tensor) { return volume(tensor, spatial).flatten(1); };
  Views views;
  return views.changed(planes(result.dense)) && views.input(planes(places.contiguous())) &&
      views.input(planes(x.contiguous())) &&
      views.recorded(rivulet_scatter(added, views.at(0), 1, views.at(1), views.at(2), {})) && result.finish();
}

bool pool_average(
    Pooling kind, const Tensor& out, const Tensor& x, int64_t spatial, const Geometry12* geometry,
    bool include_padding = false, std::optional<int64_t> divisor = std::nullopt) {
  if (out.numel() == 0) {
    return true;
  }
  if (x.numel() == 0) {
    return false;
  }
  DenseResult result(out);
  Views views;
  return views.output(volume(result.dense, spatial)) && views.input(volume(x.contiguous(), spatial)) &&
      views.recorded(rivulet_pool(
          kind, views.at(0), nullptr, views.at(1), geometry ? geometry->data() : nullptr, include_padding,
          divisor.value_or(0))) &&
      result.finish();
}

template <Pooling kind>
struct FlatAverage {
  bool operator()(
      const Tensor& out, const Tensor& x, int64_t kernel_w, int64_t kernel_h, int64_t stride_w, int64_t stride_h,
      int64_t pad_w, int64_t pad_h, bool include_padding, std::optional<int64_t> divisor) const {
    auto geometry = flat({kernel_h, kernel_w}, {stride_h, stride_w}, {pad_h, pad_w});
    return pool_average(kind, out, x, 2, &geometry, include_padding, divisor);
  }
};

template <int64_t spatial>
struct MaximumGradient {
  bool operator()(const Tensor& out, const Tensor& grad, const Tensor& places) const {
    return to_places(true, out, grad, places, spatial);
  }
};

// [.., r r C, H, W] to [.., C, r H, r W], or back.
bool shuffle_pixels(const Tensor& large, const Tensor& small, int64_t factor, bool back) {
  int64_t dim = small.dim() - 3;
  Tensor wide = large.unflatten(-1, {small.size(-1), factor}).unflatten(-3, {small.size(-2), factor});
  Tensor deep = small.unflatten(dim, {large.size(dim), factor, factor});
  // From .. C H r W r to .. C r r H W.
  c10::DimVector order;
  for (int64_t k = 0; k <= dim; ++k) {
    order.push_back(k);
  }
  for (int64_t k : {2, 4, 1, 3}) {
    order.push_back(dim + k);
  }
  Tensor ordered = wide.permute(order);
  if (back) {
    deep.copy_(ordered);
  } else {
    ordered.copy_(deep);
  }
  return true;
}

} // namespace

void hook_pooling() {
  using namespace at::native;
  hook(
      max_pool2d_kernel,
      [](const Tensor& out, const Tensor& places, const Tensor& x, int kernel_w, int kernel_h, int stride_w,
         int stride_h, int pad_w, int pad_h, int dilation_w, int dilation_h) {
        auto geometry = flat({kernel_h, kernel_w}, {stride_h, stride_w}, {pad_h, pad_w}, {dilation_h, dilation_w});
        return pool_maximum(out, places, x, 2, &geometry);
      });
  hook(
      max_pool3d_kernel,
      [](Tensor& out, Tensor& places, const Tensor& x, int kernel_w, int kernel_h, int kernel_d, int stride_w,
         int stride_h, int stride_d, int pad_w, int pad_h, int pad_d, int dilation_w, int dilation_h,
         int dilation_d) {
        auto geometry = solid(
            {kernel_d, kernel_h, kernel_w}, {stride_d, stride_h, stride_w}, {pad_d, pad_h, pad_w},
            {dilation_d, dilation_h, dilation_w});
        return pool_maximum(out, places, x, 3, &geometry);
      });
  hook(max_pool2d_backward_kernel, MaximumGradient<2>{});
  hook(max_pool3d_backward_kernel, MaximumGradient<3>{});
  hook(avg_pool2d_kernel, FlatAverage<kAverage>{});
  hook(avg_pool2d_backward_kernel, FlatAverage<kAverageGradient>{});
  hook(adaptive_avg_pool2d_kernel, [](Tensor& out, const Tensor& x, at::IntArrayRef) {
    return pool_average(kAverage, out, x, 2, nullptr);
  });
  hook(adaptive_avg_pool2d_backward_kernel, [](Tensor& out, const Tensor& grad) {
    return pool_average(kAverageGradient, out, grad, 2, nullptr);
  });
  hook(
      adaptive_max_pool2d_kernel,
      [](const Tensor& out, const Tensor& places, const Tensor& x, at::IntArrayRef) {
        return pool_maximum(out, places, x, 2, nullptr);
      });
  hook(adaptive_max_pool2d_backward_kernel, MaximumGradient<2>{});
  hook(max_unpool2d_kernel, [](Tensor& out, const Tensor& x, const Tensor& places) {
    return to_places(false, out, x, places, 2);
  });
  hook(max_unpool3d_kernel, [](Tensor& out, const Tensor& x, const Tensor& places) {
    return to_places(false, out, x, places, 3);
  });
  hook(pixel_shuffle_kernel, [](at::TensorBase& out, const at::TensorBase& x, int64_t factor) {
    return shuffle_pixels(Tensor(out), Tensor(x), factor, false);
  });
  hook(pixel_unshuffle_kernel, [](at::TensorBase& out, const at::TensorBase& x, int64_t factor) {
    return shuffle_pixels(Tensor(x), Tensor(out), factor, true);
  });
  hook(channel_shuffle_kernel, [](at::TensorBase& out, const at::TensorBase& x, int64_t groups) {
    int64_t each = x.size(1) / groups;
    Tensor(out).unflatten(1, {each, groups}).copy_(Tensor(x).unflatten(1, {groups, each}).transpose(1, 2));
    return true;
  });
}

} // namespace rivulet
