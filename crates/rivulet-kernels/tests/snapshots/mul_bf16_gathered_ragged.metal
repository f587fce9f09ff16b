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
typedef uint type_8[1];
constant uint LANE_MASK_16_ = 65535u;

uint units_out(
    uint start,
    uint count
) {
    return ((((start % 2u) + count) + 2u) - 1u) / 2u;
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

bool is_nan(
    float x
) {
    return (as_type<uint>(x) & 2147483647u) > 2139095040u;
}

uint encode_bf16_(
    float x_1
) {
    uint bits_1 = as_type<uint>(x_1);
    uint rounded = ((bits_1 + 32767u) + ((bits_1 >> 16u) & 1u)) >> 16u;
    bool _e15 = is_nan(x_1);
    return _e15 ? ((bits_1 >> 16u) | 64u) : rounded;
}

float f_mul(
    float a,
    float b
) {
    return a * b;
}

float decode_bf16_(
    uint bits
) {
    return as_type<float>(bits << 16u);
}

float load_in0_(
    uint i,
    device type_8 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = in0_[i / 2u];
    float _e11 = decode_bf16_(_e5 >> ((i % 2u) * 16u));
    return _e11;
}

float load_in1_(
    uint i_1,
    device type_8 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = in1_[i_1 / 2u];
    float _e11 = decode_bf16_(_e5 >> ((i_1 % 2u) * 16u));
    return _e11;
}

float element(
    uint e_1,
    thread metal::uint4& at,
    device type_8 const& in0_,
    device type_8 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e3 = at.y;
    float _e4 = load_in0_(_e3, in0_, _buffer_sizes);
    uint _e7 = at.z;
    float _e8 = load_in1_(_e7, in1_, _buffer_sizes);
    float _e9 = f_mul(_e4, _e8);
    return _e9;
}

void put_out(
    uint unit_1,
    uint start_1,
    uint count_1,
    constant Params& p,
    device type_5& out,
    thread metal::uint4& at,
    device type_8 const& in0_,
    device type_8 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint word = 0u;
    uint mask = 0u;
    uint lane = 0u;
    uint lead = start_1 % 2u;
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e36 = lane;
            lane = _e36 + 1u;
        }
        loop_init_1 = false;
        uint _e11 = lane;
        if (_e11 < 2u) {
        } else {
            break;
        }
        {
            uint _e16 = lane;
            uint e_2 = ((unit_1 * 2u) + _e16) - lead;
            if (e_2 < count_1) {
                locate(e_2, p, at);
                uint _e20 = word;
                float _e21 = element(e_2, at, in0_, in1_, _buffer_sizes);
                uint _e22 = encode_bf16_(_e21);
                uint _e23 = lane;
                word = _e20 | (_e22 << (_e23 * 16u));
                uint _e28 = mask;
                uint _e30 = lane;
                mask = _e28 | (LANE_MASK_16_ << (_e30 * 16u));
            }
        }
    }
    uint to = (start_1 / 2u) + unit_1;
    uint _e41 = mask;
    if (_e41 == 4294967295u) {
        uint _e46 = word;
        metal::atomic_store_explicit(&out[to], _e46, metal::memory_order_relaxed);
        return;
    } else {
        uint _e51 = metal::atomic_load_explicit(&out[to], metal::memory_order_relaxed);
        uint _e52 = word;
        uint _e54 = mask;
        uint _e56 = metal::atomic_fetch_xor_explicit(&out[to], (_e51 ^ _e52) & _e54, metal::memory_order_relaxed);
        return;
    }
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(3)]]
, device type_5& out [[buffer(0)]]
, device type_8 const& in0_ [[buffer(1)]]
, device type_8 const& in1_ [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(4)]]
) {
    metal::uint4 at = {};
    uint unit = {};
    uint item = 0u;
    uint _e6 = p.offsets.x;
    uint _e9 = p.count;
    uint _e10 = units_out(_e6, _e9);
    unit = (((group.y * groups.x) + group.x) * 256u) + local;
    bool loop_init_2 = true;
    while(true) {
        if (!loop_init_2) {
            uint _e39 = item;
            item = _e39 + 1u;
        }
        loop_init_2 = false;
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
