// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size3;
};

struct Params {
    metal::uint4 offsets;
    metal::uint4 scalars;
    metal::uint2 extra;
    uint count;
    uint rank;
};
typedef uint type_3[1];

uint units_out(
    uint start,
    uint count
) {
    return ((count + 2u) - 1u) / 2u;
}

void locate(
    uint e,
    constant Params& p,
    thread metal::uint4& at
) {
    metal::uint4 _e4 = p.offsets;
    at = _e4 + metal::uint4(e);
    return;
}

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
    uint bits_2 = static_cast<uint>(as_type<ushort>(static_cast<half>(x_2)));
    uint _e5 = sign_bit(x_2);
    bool _e9 = is_nan(x_2);
    return _e9 ? (32256u | (_e5 >> 16u)) : bits_2;
}

float expm1_reduced(
    float r
) {
    float y = 0.00019875691;
    float _e3 = y;
    y = metal::fma(_e3, r, 0.0013981999);
    float _e6 = y;
    y = metal::fma(_e6, r, 0.008333452);
    float _e9 = y;
    y = metal::fma(_e9, r, 0.041665796);
    float _e12 = y;
    y = metal::fma(_e12, r, 0.16666666);
    float _e15 = y;
    y = metal::fma(_e15, r, 0.5);
    float _e18 = y;
    return metal::fma(_e18 * r, r, r);
}

float exp_remainder(
    float x_3,
    float n
) {
    return (x_3 - (n * 0.6933594)) + (n * 0.00021219444);
}

float keep_nan(
    float x_4,
    float otherwise
) {
    bool _e2 = is_nan(x_4);
    return _e2 ? x_4 : otherwise;
}

float pow2i(
    int n_1
) {
    return as_type<float>(as_type<uint>(as_type<int>(as_type<uint>(n_1) + as_type<uint>(127))) << 23u);
}

float scale_pow2_(
    float x_5,
    int n_2
) {
    int half_ = n_2 / 2;
    float _e4 = pow2i(half_);
    float _e7 = pow2i(as_type<int>(as_type<uint>(n_2) - as_type<uint>(half_)));
    return (x_5 * _e4) * _e7;
}

float inf_f32_(
) {
    uint bits = 2139095040u;
    uint _e2 = bits;
    return as_type<float>(_e2);
}

int naga_f2i32(float value) {
    return static_cast<int>(metal::clamp(value, -2147483600.0, 2147483500.0));
}

float exp_f32_(
    float x_6
) {
    float limited = metal::clamp(x_6, -104.0, 89.0);
    float n_3 = metal::rint(limited * 1.442695);
    float _e7 = exp_remainder(limited, n_3);
    float _e8 = expm1_reduced(_e7);
    float y_1 = 1.0 + _e8;
    float _e12 = scale_pow2_(y_1, naga_f2i32(n_3));
    float _e13 = inf_f32_();
    float _e17 = keep_nan(x_6, (x_6 > 88.72284) ? _e13 : _e12);
    return _e17;
}

float f_exp(
    float x_7
) {
    float _e1 = exp_f32_(x_7);
    return _e1;
}

float decode_f16_(
    uint bits_1
) {
    return static_cast<float>(as_type<half>(static_cast<ushort>(bits_1 & 65535u)));
}

float load_in0_(
    uint i,
    device type_3 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = in0_[i / 2u];
    float _e11 = decode_f16_(_e5 >> ((i % 2u) * 16u));
    return _e11;
}

float element(
    uint e_1,
    thread metal::uint4& at,
    device type_3 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e3 = at.y;
    float _e4 = load_in0_(_e3, in0_, _buffer_sizes);
    float _e5 = f_exp(_e4);
    return _e5;
}

void put_out(
    uint unit_1,
    uint start_1,
    uint count_1,
    constant Params& p,
    device type_3& out,
    thread metal::uint4& at,
    device type_3 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint word = 0u;
    uint lane = 0u;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e24 = lane;
            lane = _e24 + 1u;
        }
        loop_init = false;
        uint _e7 = lane;
        if (_e7 < 2u) {
        } else {
            break;
        }
        {
            uint _e12 = lane;
            uint e_2 = (unit_1 * 2u) + _e12;
            if (e_2 < count_1) {
                locate(e_2, p, at);
                uint _e15 = word;
                float _e16 = element(e_2, at, in0_, _buffer_sizes);
                uint _e17 = encode_f16_(_e16);
                uint _e18 = lane;
                word = _e15 | (_e17 << (_e18 * 16u));
            }
        }
    }
    uint _e31 = word;
    out[(start_1 / 2u) + unit_1] = _e31;
    return;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(2)]]
, device type_3& out [[buffer(0)]]
, device type_3 const& in0_ [[buffer(1)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(3)]]
) {
    metal::uint4 at = {};
    uint unit = {};
    uint item = 0u;
    uint _e6 = p.offsets.x;
    uint _e9 = p.count;
    uint _e10 = units_out(_e6, _e9);
    unit = (((group.y * groups.x) + group.x) * 1024u) + local;
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e39 = item;
            item = _e39 + 1u;
        }
        loop_init_1 = false;
        uint _e22 = item;
        if (_e22 < 4u) {
        } else {
            break;
        }
        {
            uint _e25 = unit;
            if (_e25 < _e10) {
                uint _e27 = unit;
                uint _e31 = p.offsets.x;
                uint _e34 = p.count;
                put_out(_e27, _e31, _e34, p, out, at, in0_, _buffer_sizes);
            }
            uint _e35 = unit;
            unit = _e35 + 256u;
        }
    }
    return;
}
