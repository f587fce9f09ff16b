// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size2;
};

struct Params {
    metal::uint4 kept_shape;
    metal::uint4 kept_strides;
    metal::uint4 shape;
    metal::uint4 strides;
    metal::uint4 offsets;
    uint kept;
    uint count;
    uint chunk;
    uint chunks;
    uint kept_rank;
    uint rank;
    float scale;
    float power;
};
typedef metal::atomic_uint type_4[1];
typedef uint type_6[1];
struct type_7 {
    float inner[256];
};
constant uint LANE_MASK_16_ = 65535u;

uint sign_bit(
    float x
) {
    return as_type<uint>(x) & 2147483648u;
}

bool is_nan(
    float x_1
) {
    return (as_type<uint>(x_1) & 2147483647u) > 2139095040u;
}

uint encode_f16_(
    float x_2
) {
    uint bits_1 = static_cast<uint>(as_type<ushort>(static_cast<half>(x_2)));
    uint _e5 = sign_bit(x_2);
    bool _e9 = is_nan(x_2);
    return _e9 ? (32256u | (_e5 >> 16u)) : bits_1;
}

void store_out(
    uint i,
    float value,
    device type_4& out,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint shift = (i % 2u) * 16u;
    uint _e6 = encode_f16_(value);
    uint word = _e6 << shift;
    uint at_2 = i / 2u;
    uint _e14 = metal::atomic_load_explicit(&out[at_2], metal::memory_order_relaxed);
    uint _e19 = metal::atomic_fetch_xor_explicit(&out[at_2], (_e14 ^ word) & (LANE_MASK_16_ << shift), metal::memory_order_relaxed);
    return;
}

float decode_f16_(
    uint bits
) {
    return static_cast<float>(as_type<half>(static_cast<ushort>(bits & 65535u)));
}

float load_x(
    uint i_1,
    device type_6 const& x_3,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = x_3[i_1 / 2u];
    float _e11 = decode_f16_(_e5 >> ((i_1 % 2u) * 16u));
    return _e11;
}

uint kept_place(
    uint o,
    constant Params& p
) {
    uint rest = {};
    uint at = {};
    uint d = 0u;
    uint _e3 = p.kept;
    rest = o % _e3;
    uint _e9 = p.offsets.z;
    at = _e9;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e44 = d;
            d = _e44 + 1u;
        }
        loop_init = false;
        uint _e13 = d;
        uint _e18 = p.kept_rank;
        if ((_e13 + 1u) < _e18) {
        } else {
            break;
        }
        {
            uint _e20 = rest;
            uint _e23 = d;
            uint _e25 = p.kept_shape[_e23];
            uint next = _e20 / _e25;
            uint _e27 = at;
            uint _e28 = rest;
            uint _e31 = d;
            uint _e33 = p.kept_shape[_e31];
            uint _e38 = d;
            uint _e40 = p.kept_strides[_e38];
            at = _e27 + ((_e28 - (next * _e33)) * _e40);
            rest = next;
        }
    }
    uint _e46 = at;
    uint _e47 = rest;
    uint _e52 = p.kept_rank;
    uint _e56 = p.kept_strides[_e52 - 1u];
    return _e46 + (_e47 * _e56);
}

uint place(
    uint base,
    uint r,
    constant Params& p
) {
    uint rest_1 = {};
    uint at_1 = {};
    uint d_1 = 0u;
    rest_1 = r;
    at_1 = base;
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e37 = d_1;
            d_1 = _e37 + 1u;
        }
        loop_init_1 = false;
        uint _e6 = d_1;
        uint _e11 = p.rank;
        if ((_e6 + 1u) < _e11) {
        } else {
            break;
        }
        {
            uint _e13 = rest_1;
            uint _e16 = d_1;
            uint _e18 = p.shape[_e16];
            uint next_1 = _e13 / _e18;
            uint _e20 = at_1;
            uint _e21 = rest_1;
            uint _e24 = d_1;
            uint _e26 = p.shape[_e24];
            uint _e31 = d_1;
            uint _e33 = p.strides[_e31];
            at_1 = _e20 + ((_e21 - (next_1 * _e26)) * _e33);
            rest_1 = next_1;
        }
    }
    uint _e39 = at_1;
    uint _e40 = rest_1;
    uint _e45 = p.rank;
    uint _e49 = p.strides[_e45 - 1u];
    return _e39 + (_e40 * _e49);
}

float mapped(
    uint base_1,
    uint r_1,
    constant Params& p,
    device type_6 const& x_3,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e2 = place(base_1, r_1, p);
    float _e3 = load_x(_e2, x_3, _buffer_sizes);
    return _e3;
}

float join_sum(
    float a,
    float b
) {
    return a + b;
}

float fold(
    uint base_2,
    uint first,
    uint step,
    uint end,
    constant Params& p,
    device type_6 const& x_3,
    constant _mslBufferSizes& _buffer_sizes
) {
    float total = 0.0;
    uint r_2 = {};
    r_2 = first;
    bool loop_init_2 = true;
    while(true) {
        if (!loop_init_2) {
            uint _e32 = r_2;
            r_2 = _e32 + (4u * step);
        }
        loop_init_2 = false;
        uint _e7 = r_2;
        if ((_e7 + (3u * step)) < end) {
        } else {
            break;
        }
        {
            uint _e12 = r_2;
            float _e13 = mapped(base_2, _e12, p, x_3, _buffer_sizes);
            uint _e14 = r_2;
            float _e16 = mapped(base_2, _e14 + step, p, x_3, _buffer_sizes);
            float _e17 = join_sum(_e13, _e16);
            uint _e18 = r_2;
            float _e22 = mapped(base_2, _e18 + (2u * step), p, x_3, _buffer_sizes);
            uint _e23 = r_2;
            float _e27 = mapped(base_2, _e23 + (3u * step), p, x_3, _buffer_sizes);
            float _e28 = join_sum(_e22, _e27);
            float _e29 = total;
            float _e30 = join_sum(_e17, _e28);
            float _e31 = join_sum(_e29, _e30);
            total = _e31;
        }
    }
    bool loop_init_3 = true;
    while(true) {
        if (!loop_init_3) {
            uint _e42 = r_2;
            r_2 = _e42 + step;
        }
        loop_init_3 = false;
        uint _e36 = r_2;
        if (_e36 < end) {
        } else {
            break;
        }
        {
            float _e38 = total;
            uint _e39 = r_2;
            float _e40 = mapped(base_2, _e39, p, x_3, _buffer_sizes);
            float _e41 = join_sum(_e38, _e40);
            total = _e41;
        }
    }
    float _e44 = total;
    return _e44;
}

float share(
    uint local_1,
    float value_1,
    threadgroup type_7& parts
) {
    uint width = 128u;
    parts.inner[local_1] = value_1;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool loop_init_4 = true;
    while(true) {
        if (!loop_init_4) {
            uint _e22 = width;
            width = _e22 / 2u;
        }
        loop_init_4 = false;
        uint _e6 = width;
        if (_e6 > 0u) {
        } else {
            break;
        }
        {
            uint _e9 = width;
            if (local_1 < _e9) {
                float _e15 = parts.inner[local_1];
                uint _e17 = width;
                float _e20 = parts.inner[local_1 + _e17];
                float _e21 = join_sum(_e15, _e20);
                parts.inner[local_1] = _e21;
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    float total_1 = parts.inner[0];
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    return total_1;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(2)]]
, device type_4& out [[buffer(0)]]
, device type_6 const& x_3 [[buffer(1)]]
, threadgroup type_7& parts
, constant _mslBufferSizes& _buffer_sizes [[buffer(3)]]
) {
    uint o_1 = (group.y * groups.x) + group.x;
    uint _e10 = p.kept;
    uint _e13 = p.chunks;
    if (o_1 >= (_e10 * _e13)) {
        return;
    }
    uint _e18 = p.kept;
    uint _e22 = p.chunk;
    uint start = (o_1 / _e18) * _e22;
    uint _e26 = p.chunk;
    uint _e30 = p.count;
    uint end_1 = metal::min(start + _e26, _e30);
    uint _e32 = kept_place(o_1, p);
    float _e35 = fold(_e32, start + local, 256u, end_1, p, x_3, _buffer_sizes);
    float _e36 = share(local, _e35, parts);
    if (local == 0u) {
        uint _e42 = p.offsets.x;
        float _e46 = p.scale;
        store_out(_e42 + o_1, _e36 * _e46, out, _buffer_sizes);
        return;
    } else {
        return;
    }
}
