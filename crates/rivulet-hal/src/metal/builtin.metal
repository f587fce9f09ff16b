// language: metal3.0
#include <metal_stdlib>

using metal::uint;

// Sixteen bytes a thread; the last ones, and those whose ends do not lie on such a step, one by one.
kernel void rivulet_copy(
  uint at [[thread_position_in_grid]]
, device uchar* target [[buffer(0)]]
, device uchar const* source [[buffer(1)]]
, constant metal::uint4& p [[buffer(2)]]
) {
    ulong count = (static_cast<ulong>(p.w) << 32u) | static_cast<ulong>(p.z);
    ulong first = static_cast<ulong>(at) * 16u;
    if (first >= count) {
        return;
    }
    device uchar* to = target + p.x + first;
    device uchar const* from = source + p.y + first;
    if ((p.x | p.y) % 16u == 0u && count - first >= 16u) {
        *reinterpret_cast<device metal::uint4*>(to) = *reinterpret_cast<device metal::uint4 const*>(from);
        return;
    }
    ulong bytes = metal::min(count - first, static_cast<ulong>(16u));
    for (ulong k = 0u; k < bytes; k += 1u) {
        to[k] = from[k];
    }
}

// Four words a thread.
kernel void rivulet_fill(
  uint at [[thread_position_in_grid]]
, device uint* target [[buffer(0)]]
, constant metal::uint4& p [[buffer(1)]]
) {
    ulong count = (static_cast<ulong>(p.w) << 32u) | static_cast<ulong>(p.z);
    ulong first = static_cast<ulong>(at) * 4u;
    for (ulong k = first; k < metal::min(first + 4u, count); k += 1u) {
        target[p.y / 4u + k] = p.x;
    }
}
