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
typedef float type_3[1];
struct type_7 {
    metal::float4 inner[128];
};

void store_out(
    uint i_2,
    float value,
    device type_3& out,
    constant _mslBufferSizes& _buffer_sizes
) {
    out[i_2] = value;
    return;
}

float load_a(
    uint i_3,
    device type_3 const& a,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = a[i_3];
    return _e3;
}

float load_b(
    uint i_4,
    device type_3 const& b,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = b[i_4];
    return _e3;
}

float load_bias(
    uint i_5,
    device type_3 const& bias,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = bias[i_5];
    return _e3;
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
    float x,
    float n
) {
    return (x - (n * 0.6933594)) + (n * 0.00021219444);
}

bool is_nan(
    float x_1
) {
    return (as_type<uint>(x_1) & 2147483647u) > 2139095040u;
}

float keep_nan(
    float x_2,
    float otherwise
) {
    bool _e2 = is_nan(x_2);
    return _e2 ? x_2 : otherwise;
}

float pow2i(
    int n_1
) {
    return as_type<float>(as_type<uint>(as_type<int>(as_type<uint>(n_1) + as_type<uint>(127))) << 23u);
}

float scale_pow2_(
    float x_3,
    int n_2
) {
    int half_ = n_2 / 2;
    float _e4 = pow2i(half_);
    float _e7 = pow2i(as_type<int>(as_type<uint>(n_2) - as_type<uint>(half_)));
    return (x_3 * _e4) * _e7;
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
    float x_4
) {
    float limited = metal::clamp(x_4, -104.0, 89.0);
    float n_3 = metal::rint(limited * 1.442695);
    float _e7 = exp_remainder(limited, n_3);
    float _e8 = expm1_reduced(_e7);
    float y_1 = 1.0 + _e8;
    float _e12 = scale_pow2_(y_1, naga_f2i32(n_3));
    float _e13 = inf_f32_();
    float _e17 = keep_nan(x_4, (x_4 > 88.72284) ? _e13 : _e12);
    return _e17;
}

uint sign_bit(
    float x_5
) {
    return as_type<uint>(x_5) & 2147483648u;
}

float with_sign(
    float x_6,
    float s
) {
    uint _e5 = sign_bit(s);
    return as_type<float>((as_type<uint>(x_6) & 2147483647u) | _e5);
}

float erf_f32_(
    float x_7
) {
    float r_1 = {};
    float r_2 = -0.0005967617;
    float t = metal::abs(x_7);
    float s_1 = x_7 * x_7;
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
        float _e34 = with_sign(y_2, x_7);
        float _e35 = keep_nan(x_7, _e34);
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
    return metal::fma(_e53, x_7, x_7);
}

float f_gelu(
    float x_8
) {
    float _e5 = erf_f32_(x_8 * 0.70710677);
    return (x_8 * 0.5) * (1.0 + _e5);
}

float finished(
    metal::uint4 base,
    uint row,
    uint column,
    float sum,
    constant Params& p,
    device type_3 const& bias,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e6 = p.alpha;
    float _e9 = p.beta;
    uint _e14 = p.edges.y;
    uint _e20 = p.edges.z;
    float _e23 = load_bias((base.w + (row * _e14)) + (column * _e20), bias, _buffer_sizes);
    float value_1 = metal::fma(_e6, sum, _e9 * _e23);
    float _e26 = f_gelu(value_1);
    return _e26;
}

void store_four(
    metal::uint4 base_1,
    uint row_1,
    uint column_1,
    metal::float4 sums,
    constant Params& p,
    device type_3& out,
    device type_3 const& bias,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e6 = p.m;
    if (row_1 >= _e6) {
        return;
    }
    uint _e12 = p.edges.x;
    uint to = (base_1.x + (row_1 * _e12)) + column_1;
    uint _e20 = p.n;
    if ((column_1 + 0u) < _e20) {
        float _e27 = finished(base_1, row_1, column_1 + 0u, sums.x, p, bias, _buffer_sizes);
        store_out(to + 0u, _e27, out, _buffer_sizes);
    }
    uint _e32 = p.n;
    if ((column_1 + 1u) < _e32) {
        float _e39 = finished(base_1, row_1, column_1 + 1u, sums.y, p, bias, _buffer_sizes);
        store_out(to + 1u, _e39, out, _buffer_sizes);
    }
    uint _e44 = p.n;
    if ((column_1 + 2u) < _e44) {
        float _e51 = finished(base_1, row_1, column_1 + 2u, sums.z, p, bias, _buffer_sizes);
        store_out(to + 2u, _e51, out, _buffer_sizes);
    }
    uint _e56 = p.n;
    if ((column_1 + 3u) < _e56) {
        float _e63 = finished(base_1, row_1, column_1 + 3u, sums.w, p, bias, _buffer_sizes);
        store_out(to + 3u, _e63, out, _buffer_sizes);
        return;
    } else {
        return;
    }
}

float fetch_a(
    uint base_2,
    uint row_2,
    uint k_1,
    constant Params& p,
    device type_3 const& a,
    constant _mslBufferSizes& _buffer_sizes
) {
    bool local_1 = {};
    uint _e5 = p.m;
    if (row_2 < _e5) {
        uint _e11 = p.k;
        local_1 = k_1 < _e11;
    } else {
        local_1 = false;
    }
    bool _e14 = local_1;
    if (_e14) {
        uint _e18 = p.strides.x;
        uint _e24 = p.strides.y;
        float _e27 = load_a((base_2 + (row_2 * _e18)) + (k_1 * _e24), a, _buffer_sizes);
        return _e27;
    }
    return 0.0;
}

float fetch_b(
    uint base_3,
    uint k_2,
    uint column_2,
    constant Params& p,
    device type_3 const& b,
    constant _mslBufferSizes& _buffer_sizes
) {
    bool local_2 = {};
    uint _e5 = p.k;
    if (k_2 < _e5) {
        uint _e11 = p.n;
        local_2 = column_2 < _e11;
    } else {
        local_2 = false;
    }
    bool _e14 = local_2;
    if (_e14) {
        uint _e18 = p.strides.z;
        uint _e24 = p.strides.w;
        float _e27 = load_b((base_3 + (k_2 * _e18)) + (column_2 * _e24), b, _buffer_sizes);
        return _e27;
    }
    return 0.0;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(64)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(4)]]
, device type_3& out [[buffer(0)]]
, device type_3 const& a [[buffer(1)]]
, device type_3 const& b [[buffer(2)]]
, device type_3 const& bias [[buffer(3)]]
, threadgroup type_7& tile_a
, threadgroup type_7& tile_b
, constant _mslBufferSizes& _buffer_sizes [[buffer(5)]]
) {
    metal::float4 c0_0_ = metal::float4 {};
    metal::float4 c1_0_ = metal::float4 {};
    metal::float4 c2_0_ = metal::float4 {};
    metal::float4 c3_0_ = metal::float4 {};
    uint k = 0u;
    uint i = {};
    uint i_1 = {};
    uint kk = {};
    metal::uint4 _e3 = matrices(group.z, p);
    uint end = p.k;
    uint first_row = group.y * 32u;
    uint first_column = group.x * 32u;
    uint x_9 = local % 8u;
    uint y_3 = local / 8u;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e127 = k;
            k = _e127 + 16u;
        }
        loop_init = false;
        uint _e27 = k;
        if (_e27 < end) {
        } else {
            break;
        }
        {
            i = local;
            bool loop_init_1 = true;
            while(true) {
                if (!loop_init_1) {
                    uint _e54 = i;
                    i = _e54 + 64u;
                }
                loop_init_1 = false;
                uint _e30 = i;
                if (_e30 < 512u) {
                } else {
                    break;
                }
                {
                    uint _e33 = i;
                    uint kk_1 = _e33 % 16u;
                    uint _e36 = i;
                    uint row_3 = _e36 / 16u;
                    uint _e51 = k;
                    float _e53 = fetch_a(_e3.y, first_row + row_3, _e51 + kk_1, p, a, _buffer_sizes);
                    tile_a.inner[(kk_1 * 8u) + (row_3 / 4u)][row_3 % 4u] = _e53;
                }
            }
            i_1 = local;
            bool loop_init_2 = true;
            while(true) {
                if (!loop_init_2) {
                    uint _e82 = i_1;
                    i_1 = _e82 + 64u;
                }
                loop_init_2 = false;
                uint _e58 = i_1;
                if (_e58 < 512u) {
                } else {
                    break;
                }
                {
                    uint _e61 = i_1;
                    uint kk_2 = _e61 % 16u;
                    uint _e64 = i_1;
                    uint column_3 = _e64 / 16u;
                    uint _e78 = k;
                    float _e81 = fetch_b(_e3.z, _e78 + kk_2, first_column + column_3, p, b, _buffer_sizes);
                    tile_b.inner[(kk_2 * 8u) + (column_3 / 4u)][column_3 % 4u] = _e81;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            kk = 0u;
            bool loop_init_3 = true;
            while(true) {
                if (!loop_init_3) {
                    uint _e125 = kk;
                    kk = _e125 + 1u;
                }
                loop_init_3 = false;
                uint _e87 = kk;
                if (_e87 < 16u) {
                } else {
                    break;
                }
                {
                    uint _e91 = kk;
                    metal::float4 a0_ = tile_a.inner[((_e91 * 8u) + 0u) + y_3];
                    uint _e100 = kk;
                    metal::float4 b0_ = tile_b.inner[((_e100 * 8u) + 0u) + x_9];
                    metal::float4 _e110 = c0_0_;
                    c0_0_ = metal::fma(metal::float4(a0_.x), b0_, _e110);
                    metal::float4 _e114 = c1_0_;
                    c1_0_ = metal::fma(metal::float4(a0_.y), b0_, _e114);
                    metal::float4 _e118 = c2_0_;
                    c2_0_ = metal::fma(metal::float4(a0_.z), b0_, _e118);
                    metal::float4 _e122 = c3_0_;
                    c3_0_ = metal::fma(metal::float4(a0_.w), b0_, _e122);
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    metal::float4 _e140 = c0_0_;
    store_four(_e3, (first_row + 0u) + (y_3 * 4u), (first_column + 0u) + (x_9 * 4u), _e140, p, out, bias, _buffer_sizes);
    metal::float4 _e151 = c1_0_;
    store_four(_e3, (first_row + 1u) + (y_3 * 4u), (first_column + 0u) + (x_9 * 4u), _e151, p, out, bias, _buffer_sizes);
    metal::float4 _e162 = c2_0_;
    store_four(_e3, (first_row + 2u) + (y_3 * 4u), (first_column + 0u) + (x_9 * 4u), _e162, p, out, bias, _buffer_sizes);
    metal::float4 _e173 = c3_0_;
    store_four(_e3, (first_row + 3u) + (y_3 * 4u), (first_column + 0u) + (x_9 * 4u), _e173, p, out, bias, _buffer_sizes);
    return;
}
