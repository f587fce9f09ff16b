// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size3;
    uint size4;
};

struct type_3 {
    metal::uint4 inner[4];
};
struct Params {
    metal::uint4 offsets;
    metal::uint4 scalars;
    metal::uint2 extra;
    uint count;
    uint rank;
    metal::uint4 shape;
    type_3 strides;
};
typedef metal::atomic_uint type_5[1];
typedef long type_9[1];
constant uint LANE_MASK_8_ = 255u;

uint encode_bool(
    int x
) {
    return (x != 0) ? 1u : 0u;
}

void store_out(
    uint i,
    int value,
    device type_5& out,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint shift = (i % 4u) * 8u;
    uint _e6 = encode_bool(value);
    uint word = _e6 << shift;
    uint at_1 = i / 4u;
    uint _e14 = metal::atomic_load_explicit(&out[at_1], metal::memory_order_relaxed);
    uint _e19 = metal::atomic_fetch_xor_explicit(&out[at_1], (_e14 ^ word) & (LANE_MASK_8_ << shift), metal::memory_order_relaxed);
    return;
}

uint units_out(
    uint start,
    uint count
) {
    return count;
}

void locate(
    uint e,
    constant Params& p,
    thread metal::uint4& at
) {
    uint rest = {};
    uint d = 0u;
    rest = e;
    metal::uint4 _e5 = p.offsets;
    at = _e5;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e35 = d;
            d = _e35 + 1u;
        }
        loop_init = false;
        uint _e8 = d;
        uint _e13 = p.rank;
        if ((_e8 + 1u) < _e13) {
        } else {
            break;
        }
        {
            uint _e17 = d;
            uint size = p.shape[_e17];
            uint _e20 = rest;
            uint next = _e20 / size;
            metal::uint4 _e23 = at;
            uint _e24 = rest;
            uint _e29 = d;
            metal::uint4 _e31 = p.strides.inner[_e29];
            at = _e23 + ((_e24 - (next * size)) * _e31);
            rest = next;
        }
    }
    metal::uint4 _e38 = at;
    uint _e39 = rest;
    uint _e44 = p.rank;
    metal::uint4 _e48 = p.strides.inner[_e44 - 1u];
    at = _e38 + (_e39 * _e48);
    return;
}

int truth_i32_(
    int x_1
) {
    return (x_1 != 0) ? 1 : 0;
}

bool i_eq(
    long a,
    long b
) {
    return a == b;
}

long load_in0_(
    uint i_1,
    device type_9 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    long _e3 = in0_[i_1];
    return _e3;
}

long load_in1_(
    uint i_2,
    device type_9 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    long _e3 = in1_[i_2];
    return _e3;
}

int element(
    uint e_1,
    thread metal::uint4& at,
    device type_9 const& in0_,
    device type_9 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e3 = at.y;
    long _e4 = load_in0_(_e3, in0_, _buffer_sizes);
    uint _e7 = at.z;
    long _e8 = load_in1_(_e7, in1_, _buffer_sizes);
    bool _e9 = i_eq(_e4, _e8);
    int _e13 = truth_i32_(_e9 ? 1 : 0);
    return _e13;
}

void put_out(
    uint unit_1,
    uint start_1,
    uint count_1,
    constant Params& p,
    device type_5& out,
    thread metal::uint4& at,
    device type_9 const& in0_,
    device type_9 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    locate(unit_1, p, at);
    uint _e5 = at.x;
    int _e6 = element(unit_1, at, in0_, in1_, _buffer_sizes);
    store_out(_e5, _e6, out, _buffer_sizes);
    return;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(3)]]
, device type_5& out [[buffer(0)]]
, device type_9 const& in0_ [[buffer(1)]]
, device type_9 const& in1_ [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(4)]]
) {
    metal::uint4 at = {};
    uint unit = {};
    uint item = 0u;
    uint _e6 = p.offsets.x;
    uint _e9 = p.count;
    uint _e10 = units_out(_e6, _e9);
    unit = (((group.y * groups.x) + group.x) * 256u) + local;
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e39 = item;
            item = _e39 + 1u;
        }
        loop_init_1 = false;
        uint _e22 = item;
        if (_e22 < 1u) {
        } else {
            break;
        }
        {
            uint _e25 = unit;
            if (_e25 < _e10) {
                uint _e27 = unit;
                uint _e31 = p.offsets.x;
                uint _e34 = p.count;
                put_out(_e27, _e31, _e34, p, out, at, in0_, in1_, _buffer_sizes);
            }
            uint _e35 = unit;
            unit = _e35 + 256u;
        }
    }
    return;
}
