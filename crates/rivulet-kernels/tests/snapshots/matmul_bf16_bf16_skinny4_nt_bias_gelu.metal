// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size2;
    uint size3;
    uint size4;
};

struct Params {
    metal::uint4 offsets;
    metal::uint4 outer_strides;
    metal::uint4 batch_strides;
    metal::uint4 strides;
    metal::uint4 edges;
    uint m;
    uint n;
    uint k;
    uint batch;
    float alpha;
    float beta;
    uint parts;
    uint chunk;
};
typedef metal::atomic_uint type_4[1];
typedef uint type_6[1];
struct type_8 {
    float inner[256];
};
constant uint LANE_MASK_16_ = 65535u;

bool is_nan(
    float x
) {
    return (as_type<uint>(x) & 2147483647u) > 2139095040u;
}

uint encode_bf16_(
    float x_1
) {
    uint bits_2 = as_type<uint>(x_1);
    uint rounded = ((bits_2 + 32767u) + ((bits_2 >> 16u) & 1u)) >> 16u;
    bool _e15 = is_nan(x_1);
    return _e15 ? ((bits_2 >> 16u) | 64u) : rounded;
}

void store_out(
    uint i,
    float value,
    device type_4& out,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint shift = (i % 2u) * 16u;
    uint _e6 = encode_bf16_(value);
    uint word = _e6 << shift;
    uint at = i / 2u;
    uint _e14 = metal::atomic_load_explicit(&out[at], metal::memory_order_relaxed);
    uint _e19 = metal::atomic_fetch_xor_explicit(&out[at], (_e14 ^ word) & (LANE_MASK_16_ << shift), metal::memory_order_relaxed);
    return;
}

float decode_bf16_(
    uint bits
) {
    return as_type<float>(bits << 16u);
}

float load_a(
    uint i_1,
    device type_6 const& a,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = a[i_1 / 2u];
    float _e11 = decode_bf16_(_e5 >> ((i_1 % 2u) * 16u));
    return _e11;
}

float load_b(
    uint i_2,
    device type_6 const& b,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = b[i_2 / 2u];
    float _e11 = decode_bf16_(_e5 >> ((i_2 % 2u) * 16u));
    return _e11;
}

float load_bias(
    uint i_3,
    device type_6 const& bias,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = bias[i_3 / 2u];
    float _e11 = decode_bf16_(_e5 >> ((i_3 % 2u) * 16u));
    return _e11;
}

metal::uint4 matrices(
    uint z,
    constant Params& p
) {
    metal::uint4 _e3 = p.offsets;
    uint _e6 = p.batch;
    metal::uint4 _e10 = p.outer_strides;
    uint _e15 = p.batch;
    metal::uint4 _e19 = p.batch_strides;
    return (_e3 + ((z / _e6) * _e10)) + ((z % _e15) * _e19);
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
    float x_2,
    float n
) {
    return (x_2 - (n * 0.6933594)) + (n * 0.00021219444);
}

float keep_nan(
    float x_3,
    float otherwise
) {
    bool _e2 = is_nan(x_3);
    return _e2 ? x_3 : otherwise;
}

float pow2i(
    int n_1
) {
    return as_type<float>(as_type<uint>(as_type<int>(as_type<uint>(n_1) + as_type<uint>(127))) << 23u);
}

float scale_pow2_(
    float x_4,
    int n_2
) {
    int half_ = n_2 / 2;
    float _e4 = pow2i(half_);
    float _e7 = pow2i(as_type<int>(as_type<uint>(n_2) - as_type<uint>(half_)));
    return (x_4 * _e4) * _e7;
}

float inf_f32_(
) {
    uint bits_1 = 2139095040u;
    uint _e2 = bits_1;
    return as_type<float>(_e2);
}

int naga_f2i32(float value) {
    return static_cast<int>(metal::clamp(value, -2147483600.0, 2147483500.0));
}

float exp_f32_(
    float x_5
) {
    float limited = metal::clamp(x_5, -104.0, 89.0);
    float n_3 = metal::rint(limited * 1.442695);
    float _e7 = exp_remainder(limited, n_3);
    float _e8 = expm1_reduced(_e7);
    float y_1 = 1.0 + _e8;
    float _e12 = scale_pow2_(y_1, naga_f2i32(n_3));
    float _e13 = inf_f32_();
    float _e17 = keep_nan(x_5, (x_5 > 88.72284) ? _e13 : _e12);
    return _e17;
}

uint sign_bit(
    float x_6
) {
    return as_type<uint>(x_6) & 2147483648u;
}

float with_sign(
    float x_7,
    float s
) {
    uint _e5 = sign_bit(s);
    return as_type<float>((as_type<uint>(x_7) & 2147483647u) | _e5);
}

float erf_f32_(
    float x_8
) {
    float r_1 = {};
    float r_2 = -0.0005967617;
    float t = metal::abs(x_8);
    float s_1 = x_8 * x_8;
    if (t > 0.9277344) {
        r_1 = metal::fma(-0.000017285347, t, 0.00038319713);
        float u = metal::fma(-0.0038839644, t, 0.024254622);
        float _e12 = r_1;
        r_1 = metal::fma(_e12, s_1, u);
        float _e14 = r_1;
        r_1 = metal::fma(_e14, t, -0.10677788);
        float _e17 = r_1;
        r_1 = metal::fma(_e17, t, -0.6348467);
        float _e20 = r_1;
        r_1 = metal::fma(_e20, t, -0.12871751);
        float _e23 = r_1;
        r_1 = metal::fma(_e23, t, -(t));
        float _e26 = r_1;
        float _e27 = exp_f32_(_e26);
        float y_2 = (t > 4.0) ? 1.0 : (1.0 - _e27);
        float _e34 = with_sign(y_2, x_8);
        float _e35 = keep_nan(x_8, _e34);
        return _e35;
    }
    float _e38 = r_2;
    r_2 = metal::fma(_e38, s_1, 0.0049911942);
    float _e41 = r_2;
    r_2 = metal::fma(_e41, s_1, -0.026768135);
    float _e44 = r_2;
    r_2 = metal::fma(_e44, s_1, 0.112819925);
    float _e47 = r_2;
    r_2 = metal::fma(_e47, s_1, -0.37612534);
    float _e50 = r_2;
    r_2 = metal::fma(_e50, s_1, 0.12837917);
    float _e53 = r_2;
    return metal::fma(_e53, x_8, x_8);
}

float f_gelu(
    float x_9
) {
    float _e5 = erf_f32_(x_9 * 0.70710677);
    return (x_9 * 0.5) * (1.0 + _e5);
}

float finished(
    metal::uint4 base,
    uint row,
    uint column,
    float sum,
    constant Params& p,
    device type_6 const& bias,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e6 = p.alpha;
    float _e9 = p.beta;
    uint _e14 = p.edges.y;
    uint _e20 = p.edges.z;
    float _e23 = load_bias((base.w + (row * _e14)) + (column * _e20), bias, _buffer_sizes);
    float value_2 = metal::fma(_e6, sum, _e9 * _e23);
    float _e26 = f_gelu(value_2);
    return _e26;
}

float column_sum(
    uint local_9,
    uint slot,
    uint slice,
    float value_1,
    threadgroup type_8& parts
) {
    uint width = 16u;
    uint at_1 = (slot * 32u) + slice;
    parts.inner[at_1] = value_1;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e25 = width;
            width = _e25 / 2u;
        }
        loop_init = false;
        uint _e11 = width;
        if (_e11 > 0u) {
        } else {
            break;
        }
        {
            uint _e14 = width;
            if (slice < _e14) {
                float _e18 = parts.inner[at_1];
                uint _e20 = width;
                float _e23 = parts.inner[at_1 + _e20];
                parts.inner[at_1] = _e18 + _e23;
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    float total = parts.inner[slot * 32u];
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    return total;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(4)]]
, device type_4& out [[buffer(0)]]
, device type_6 const& a [[buffer(1)]]
, device type_6 const& b [[buffer(2)]]
, device type_6 const& bias [[buffer(3)]]
, threadgroup type_8& parts
, constant _mslBufferSizes& _buffer_sizes [[buffer(5)]]
) {
    float c0_ = 0.0;
    float c1_ = 0.0;
    float c2_ = 0.0;
    float c3_ = 0.0;
    uint k = {};
    bool local_1 = {};
    bool local_2 = {};
    bool local_3 = {};
    bool local_4 = {};
    bool local_5 = {};
    bool local_6 = {};
    bool local_7 = {};
    bool local_8 = {};
    metal::uint4 _e3 = matrices(group.z, p);
    uint slice_1 = local % 32u;
    uint slot_1 = local / 32u;
    uint column_1 = (group.x * 8u) + slot_1;
    uint first_row = group.y * 4u;
    uint _e17 = p.m;
    uint last = _e17 - 1u;
    uint _e23 = p.n;
    uint _e30 = p.strides.w;
    uint b_1 = _e3.z + (metal::min(column_1, _e23 - 1u) * _e30);
    k = slice_1 * 1u;
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e113 = k;
            k = _e113 + 32u;
        }
        loop_init_1 = false;
        uint _e44 = k;
        uint _e47 = p.k;
        if (_e44 < _e47) {
        } else {
            break;
        }
        {
            uint _e49 = k;
            uint _e53 = p.strides.z;
            float _e56 = load_b(b_1 + (_e49 * _e53), b, _buffer_sizes);
            uint _e58 = k;
            uint _e62 = p.strides.y;
            uint a_1 = _e3.y + (_e58 * _e62);
            uint _e71 = p.strides.x;
            float _e74 = load_a(a_1 + (metal::min(first_row + 0u, last) * _e71), a, _buffer_sizes);
            float _e75 = c0_;
            c0_ = metal::fma(_e74, _e56, _e75);
            uint _e83 = p.strides.x;
            float _e86 = load_a(a_1 + (metal::min(first_row + 1u, last) * _e83), a, _buffer_sizes);
            float _e87 = c1_;
            c1_ = metal::fma(_e86, _e56, _e87);
            uint _e95 = p.strides.x;
            float _e98 = load_a(a_1 + (metal::min(first_row + 2u, last) * _e95), a, _buffer_sizes);
            float _e99 = c2_;
            c2_ = metal::fma(_e98, _e56, _e99);
            uint _e107 = p.strides.x;
            float _e110 = load_a(a_1 + (metal::min(first_row + 3u, last) * _e107), a, _buffer_sizes);
            float _e111 = c3_;
            c3_ = metal::fma(_e110, _e56, _e111);
        }
    }
    float _e116 = c0_;
    float _e117 = column_sum(local, slot_1, slice_1, _e116, parts);
    if (slice_1 == 0u) {
        uint _e124 = p.n;
        local_1 = column_1 < _e124;
    } else {
        local_1 = false;
    }
    bool _e127 = local_1;
    if (_e127) {
        uint _e134 = p.m;
        local_2 = (first_row + 0u) < _e134;
    } else {
        local_2 = false;
    }
    bool _e137 = local_2;
    if (_e137) {
        uint _e144 = p.edges.x;
        float _e150 = finished(_e3, first_row + 0u, column_1, _e117, p, bias, _buffer_sizes);
        store_out((_e3.x + ((first_row + 0u) * _e144)) + column_1, _e150, out, _buffer_sizes);
    }
    float _e151 = c1_;
    float _e152 = column_sum(local, slot_1, slice_1, _e151, parts);
    if (slice_1 == 0u) {
        uint _e159 = p.n;
        local_3 = column_1 < _e159;
    } else {
        local_3 = false;
    }
    bool _e162 = local_3;
    if (_e162) {
        uint _e169 = p.m;
        local_4 = (first_row + 1u) < _e169;
    } else {
        local_4 = false;
    }
    bool _e172 = local_4;
    if (_e172) {
        uint _e179 = p.edges.x;
        float _e185 = finished(_e3, first_row + 1u, column_1, _e152, p, bias, _buffer_sizes);
        store_out((_e3.x + ((first_row + 1u) * _e179)) + column_1, _e185, out, _buffer_sizes);
    }
    float _e186 = c2_;
    float _e187 = column_sum(local, slot_1, slice_1, _e186, parts);
    if (slice_1 == 0u) {
        uint _e194 = p.n;
        local_5 = column_1 < _e194;
    } else {
        local_5 = false;
    }
    bool _e197 = local_5;
    if (_e197) {
        uint _e204 = p.m;
        local_6 = (first_row + 2u) < _e204;
    } else {
        local_6 = false;
    }
    bool _e207 = local_6;
    if (_e207) {
        uint _e214 = p.edges.x;
        float _e220 = finished(_e3, first_row + 2u, column_1, _e187, p, bias, _buffer_sizes);
        store_out((_e3.x + ((first_row + 2u) * _e214)) + column_1, _e220, out, _buffer_sizes);
    }
    float _e221 = c3_;
    float _e222 = column_sum(local, slot_1, slice_1, _e221, parts);
    if (slice_1 == 0u) {
        uint _e229 = p.n;
        local_7 = column_1 < _e229;
    } else {
        local_7 = false;
    }
    bool _e232 = local_7;
    if (_e232) {
        uint _e239 = p.m;
        local_8 = (first_row + 3u) < _e239;
    } else {
        local_8 = false;
    }
    bool _e242 = local_8;
    if (_e242) {
        uint _e249 = p.edges.x;
        float _e255 = finished(_e3, first_row + 3u, column_1, _e222, p, bias, _buffer_sizes);
        store_out((_e3.x + ((first_row + 3u) * _e249)) + column_1, _e255, out, _buffer_sizes);
        return;
    } else {
        return;
    }
}
