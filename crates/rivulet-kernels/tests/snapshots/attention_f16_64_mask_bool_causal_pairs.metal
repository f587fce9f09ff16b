// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size2;
    uint size3;
    uint size4;
    uint size5;
};

struct Params {
    metal::uint4 offsets;
    metal::uint4 batch_strides;
    metal::uint4 head_strides;
    metal::uint4 row_strides;
    metal::uint4 mask_strides;
    uint mask_offset;
    uint queries;
    uint keys;
    uint dim;
    uint group;
    int diagonal;
    float scale;
    uint logsumexp_offset;
    metal::uint4 logsumexp_strides;
};
typedef uint type_4[1];
struct type_6 {
    metal::float4 inner[256];
};
struct type_7 {
    float inner[256];
};

float decode_f16_(
    uint bits
) {
    return static_cast<float>(as_type<half>(static_cast<ushort>(bits & 65535u)));
}

float load_q(
    uint i_3,
    device type_4 const& q,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = q[i_3 / 2u];
    float _e11 = decode_f16_(_e5 >> ((i_3 % 2u) * 16u));
    return _e11;
}

float load_k(
    uint i_4,
    device type_4 const& k,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = k[i_4 / 2u];
    float _e11 = decode_f16_(_e5 >> ((i_4 % 2u) * 16u));
    return _e11;
}

float load_v(
    uint i_5,
    device type_4 const& v,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = v[i_5 / 2u];
    float _e11 = decode_f16_(_e5 >> ((i_5 % 2u) * 16u));
    return _e11;
}

int decode_bool(
    uint bits_1
) {
    return ((bits_1 & 255u) != 0u) ? 1 : 0;
}

int load_mask(
    uint i_6,
    device type_4 const& mask,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e5 = mask[i_6 / 4u];
    int _e11 = decode_bool(_e5 >> ((i_6 % 4u) * 8u));
    return _e11;
}

float fetch_q(
    uint base,
    uint d_1,
    constant Params& p,
    device type_4 const& q,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e4 = p.dim;
    if (d_1 < _e4) {
        float _e7 = load_q(base + d_1, q, _buffer_sizes);
        return _e7;
    }
    return 0.0;
}

float fetch_k(
    uint base_1,
    uint d_2,
    constant Params& p,
    device type_4 const& k,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e4 = p.dim;
    if (d_2 < _e4) {
        float _e7 = load_k(base_1 + d_2, k, _buffer_sizes);
        return _e7;
    }
    return 0.0;
}

float fetch_v(
    uint base_2,
    uint d_3,
    constant Params& p,
    device type_4 const& v,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e4 = p.dim;
    if (d_3 < _e4) {
        float _e7 = load_v(base_2 + d_3, v, _buffer_sizes);
        return _e7;
    }
    return 0.0;
}

bool visible(
    uint query,
    uint key,
    constant Params& p
) {
    bool local_1 = {};
    uint _e4 = p.keys;
    if (key < _e4) {
        int _e12 = p.diagonal;
        local_1 = static_cast<int>(key) <= as_type<int>(as_type<uint>(static_cast<int>(query)) + as_type<uint>(_e12));
    } else {
        local_1 = false;
    }
    bool _e16 = local_1;
    return _e16;
}

float inf_f32_(
) {
    uint bits_2 = 2139095040u;
    uint _e2 = bits_2;
    return as_type<float>(_e2);
}

float masked(
    float score_1,
    uint base_3,
    uint query_1,
    uint key_1,
    constant Params& p,
    device type_4 const& mask,
    constant _mslBufferSizes& _buffer_sizes
) {
    bool _e4 = visible(query_1, key_1, p);
    if (!(_e4)) {
        float _e6 = inf_f32_();
        return -(_e6);
    }
    uint _e10 = p.queries;
    if (query_1 >= _e10) {
        return score_1;
    }
    float _e12 = inf_f32_();
    uint _e17 = p.mask_strides.z;
    uint _e23 = p.mask_strides.w;
    int _e26 = load_mask((base_3 + (query_1 * _e17)) + (key_1 * _e23), mask, _buffer_sizes);
    return (_e26 != 0) ? score_1 : -(_e12);
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
    uint bits_3 = static_cast<uint>(as_type<ushort>(static_cast<half>(x_2)));
    uint _e5 = sign_bit(x_2);
    bool _e9 = is_nan(x_2);
    return _e9 ? (32256u | (_e5 >> 16u)) : bits_3;
}

void store_four(
    uint to,
    uint d_4,
    metal::float4 value,
    constant Params& p,
    device type_4& out,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint j_4 = 0u;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e32 = j_4;
            j_4 = _e32 + 2u;
        }
        loop_init = false;
        uint _e5 = j_4;
        if (_e5 < 4u) {
        } else {
            break;
        }
        {
            uint _e8 = j_4;
            uint _e12 = p.dim;
            if ((d_4 + _e8) < _e12) {
                uint _e15 = j_4;
                uint i_7 = (to + d_4) + _e15;
                uint _e21 = j_4;
                uint _e23 = encode_f16_(value[_e21]);
                uint _e24 = j_4;
                uint _e28 = encode_f16_(value[_e24 + 1u]);
                out[i_7 / 2u] = _e23 | (_e28 << 16u);
            }
        }
    }
    return;
}

float keep_nan(
    float x_3,
    float otherwise
) {
    bool _e2 = is_nan(x_3);
    return _e2 ? x_3 : otherwise;
}

float f_maximum(
    float a,
    float b
) {
    float _e4 = keep_nan(a, (a > b) ? a : b);
    float _e5 = keep_nan(b, _e4);
    return _e5;
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
    float x_4,
    float n
) {
    return (x_4 - (n * 0.6933594)) + (n * 0.00021219444);
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

bool is_zero(
    float x_7
) {
    return (as_type<uint>(x_7) & 2147483647u) == 0u;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(128)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(5)]]
, device type_4& out [[buffer(0)]]
, device type_4 const& q [[buffer(1)]]
, device type_4 const& k [[buffer(2)]]
, device type_4 const& v [[buffer(3)]]
, device type_4 const& mask [[buffer(4)]]
, threadgroup type_6& tile_q
, threadgroup type_6& tile
, threadgroup type_7& scores
, constant _mslBufferSizes& _buffer_sizes [[buffer(6)]]
) {
    uint i = {};
    float highest = {};
    float sum = 0.0;
    metal::float4 o0_ = metal::float4 {};
    metal::float4 o1_ = metal::float4 {};
    uint first = 0u;
    uint i_1 = {};
    uint j = {};
    float score = {};
    uint d = {};
    uint i_2 = {};
    float top = {};
    uint j_1 = {};
    uint j_2 = {};
    uint j_3 = {};
    uint _e5 = p.group;
    uint kv_head = group.y / _e5;
    metal::uint4 heads = metal::uint4(group.y, group.y, kv_head, kv_head);
    metal::uint4 _e12 = p.offsets;
    metal::uint4 _e16 = p.batch_strides;
    metal::uint4 _e21 = p.head_strides;
    metal::uint4 base_4 = (_e12 + (group.z * _e16)) + (heads * _e21);
    uint _e26 = p.mask_offset;
    uint _e31 = p.mask_strides.x;
    uint _e38 = p.mask_strides.y;
    uint mask_base = (_e26 + (group.z * _e31)) + (group.y * _e38);
    uint first_query = group.x * 16u;
    uint slot = local / 8u;
    uint lane = local % 8u;
    uint query_2 = first_query + slot;
    uint _e51 = p.queries;
    uint last = _e51 - 1u;
    i = local;
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e93 = i;
            i = _e93 + 128u;
        }
        loop_init_1 = false;
        uint _e55 = i;
        if (_e55 < 256u) {
        } else {
            break;
        }
        {
            uint _e59 = i;
            uint _e67 = p.row_strides.y;
            uint start = base_4.y + (metal::min(first_query + (_e59 / 16u), last) * _e67);
            uint _e70 = i;
            uint d_5 = (_e70 % 16u) * 4u;
            uint _e76 = i;
            float _e78 = fetch_q(start, d_5, p, q, _buffer_sizes);
            float _e81 = fetch_q(start, d_5 + 1u, p, q, _buffer_sizes);
            float _e84 = fetch_q(start, d_5 + 2u, p, q, _buffer_sizes);
            float _e87 = fetch_q(start, d_5 + 3u, p, q, _buffer_sizes);
            float _e91 = p.scale;
            tile_q.inner[_e76] = metal::float4(_e78, _e81, _e84, _e87) * _e91;
        }
    }
    float _e96 = inf_f32_();
    highest = -(_e96);
    int _e110 = p.diagonal;
    uint _e114 = p.keys;
    uint end = static_cast<uint>(metal::clamp(as_type<int>(as_type<uint>(as_type<int>(as_type<uint>(static_cast<int>(first_query)) + as_type<uint>(16))) + as_type<uint>(_e110)), 0, static_cast<int>(_e114)));
    bool loop_init_2 = true;
    while(true) {
        if (!loop_init_2) {
            uint _e359 = first;
            first = _e359 + 16u;
        }
        loop_init_2 = false;
        uint _e121 = first;
        if (_e121 < end) {
        } else {
            break;
        }
        {
            i_1 = local;
            bool loop_init_3 = true;
            while(true) {
                if (!loop_init_3) {
                    uint _e164 = i_1;
                    i_1 = _e164 + 128u;
                }
                loop_init_3 = false;
                uint _e124 = i_1;
                if (_e124 < 256u) {
                } else {
                    break;
                }
                {
                    uint _e128 = first;
                    uint _e129 = i_1;
                    uint _e135 = p.keys;
                    uint _e142 = p.row_strides.z;
                    uint start_1 = base_4.z + (metal::min(_e128 + (_e129 / 16u), _e135 - 1u) * _e142);
                    uint _e145 = i_1;
                    uint d_6 = (_e145 % 16u) * 4u;
                    uint _e151 = i_1;
                    float _e153 = fetch_k(start_1, d_6, p, k, _buffer_sizes);
                    float _e156 = fetch_k(start_1, d_6 + 1u, p, k, _buffer_sizes);
                    float _e159 = fetch_k(start_1, d_6 + 2u, p, k, _buffer_sizes);
                    float _e162 = fetch_k(start_1, d_6 + 3u, p, k, _buffer_sizes);
                    tile.inner[_e151] = metal::float4(_e153, _e156, _e159, _e162);
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            j = lane;
            bool loop_init_4 = true;
            while(true) {
                if (!loop_init_4) {
                    uint _e210 = j;
                    j = _e210 + 8u;
                }
                loop_init_4 = false;
                uint _e168 = j;
                if (_e168 < 16u) {
                } else {
                    break;
                }
                {
                    score = 0.0;
                    d = 0u;
                    bool loop_init_5 = true;
                    while(true) {
                        if (!loop_init_5) {
                            uint _e197 = d;
                            d = _e197 + 1u;
                        }
                        loop_init_5 = false;
                        uint _e175 = d;
                        if (_e175 < 16u) {
                        } else {
                            break;
                        }
                        {
                            float _e178 = score;
                            uint _e182 = d;
                            metal::float4 _e185 = tile_q.inner[(slot * 16u) + _e182];
                            uint _e187 = j;
                            uint _e190 = d;
                            metal::float4 _e193 = tile.inner[(_e187 * 16u) + _e190];
                            score = _e178 + metal::dot(_e185, _e193);
                        }
                    }
                    uint _e202 = j;
                    float _e205 = score;
                    uint _e206 = first;
                    uint _e207 = j;
                    float _e209 = masked(_e205, mask_base, query_2, _e206 + _e207, p, mask, _buffer_sizes);
                    scores.inner[(slot * 16u) + _e202] = _e209;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            i_2 = local;
            bool loop_init_6 = true;
            while(true) {
                if (!loop_init_6) {
                    uint _e254 = i_2;
                    i_2 = _e254 + 128u;
                }
                loop_init_6 = false;
                uint _e214 = i_2;
                if (_e214 < 256u) {
                } else {
                    break;
                }
                {
                    uint _e218 = first;
                    uint _e219 = i_2;
                    uint _e225 = p.keys;
                    uint _e232 = p.row_strides.w;
                    uint start_2 = base_4.w + (metal::min(_e218 + (_e219 / 16u), _e225 - 1u) * _e232);
                    uint _e235 = i_2;
                    uint d_7 = (_e235 % 16u) * 4u;
                    uint _e241 = i_2;
                    float _e243 = fetch_v(start_2, d_7, p, v, _buffer_sizes);
                    float _e246 = fetch_v(start_2, d_7 + 1u, p, v, _buffer_sizes);
                    float _e249 = fetch_v(start_2, d_7 + 2u, p, v, _buffer_sizes);
                    float _e252 = fetch_v(start_2, d_7 + 3u, p, v, _buffer_sizes);
                    tile.inner[_e241] = metal::float4(_e243, _e246, _e249, _e252);
                }
            }
            float _e257 = highest;
            top = _e257;
            j_1 = 0u;
            bool loop_init_7 = true;
            while(true) {
                if (!loop_init_7) {
                    uint _e274 = j_1;
                    j_1 = _e274 + 1u;
                }
                loop_init_7 = false;
                uint _e261 = j_1;
                if (_e261 < 16u) {
                } else {
                    break;
                }
                {
                    float _e264 = top;
                    uint _e268 = j_1;
                    float _e271 = scores.inner[(slot * 16u) + _e268];
                    float _e272 = f_maximum(_e264, _e271);
                    top = _e272;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            float _e276 = top;
            bool nothing = as_type<uint>(_e276) == 4286578688u;
            float _e280 = highest;
            float _e281 = top;
            float _e283 = exp_f32_(_e280 - _e281);
            float factor = nothing ? 1.0 : _e283;
            j_2 = lane;
            bool loop_init_8 = true;
            while(true) {
                if (!loop_init_8) {
                    uint _e308 = j_2;
                    j_2 = _e308 + 8u;
                }
                loop_init_8 = false;
                uint _e287 = j_2;
                if (_e287 < 16u) {
                } else {
                    break;
                }
                {
                    uint _e293 = j_2;
                    float score_2 = scores.inner[(slot * 16u) + _e293];
                    uint _e300 = j_2;
                    float _e303 = top;
                    float _e305 = exp_f32_(score_2 - _e303);
                    scores.inner[(slot * 16u) + _e300] = nothing ? 0.0 : _e305;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            float _e311 = sum;
            sum = _e311 * factor;
            metal::float4 _e313 = o0_;
            o0_ = _e313 * factor;
            metal::float4 _e315 = o1_;
            o1_ = _e315 * factor;
            j_3 = 0u;
            bool loop_init_9 = true;
            while(true) {
                if (!loop_init_9) {
                    uint _e356 = j_3;
                    j_3 = _e356 + 1u;
                }
                loop_init_9 = false;
                uint _e319 = j_3;
                if (_e319 < 16u) {
                } else {
                    break;
                }
                {
                    uint _e325 = j_3;
                    float weight = scores.inner[(slot * 16u) + _e325];
                    float _e329 = sum;
                    sum = _e329 + weight;
                    uint _e333 = j_3;
                    metal::float4 _e340 = tile.inner[((_e333 * 16u) + lane) + 0u];
                    metal::float4 _e341 = o0_;
                    o0_ = metal::fma(metal::float4(weight), _e340, _e341);
                    uint _e345 = j_3;
                    metal::float4 _e352 = tile.inner[((_e345 * 16u) + lane) + 8u];
                    metal::float4 _e353 = o1_;
                    o1_ = metal::fma(metal::float4(weight), _e352, _e353);
                }
            }
            float _e358 = top;
            highest = _e358;
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    uint _e364 = p.queries;
    if (query_2 < _e364) {
        float _e366 = sum;
        float _e369 = sum;
        bool _e370 = is_zero(_e369);
        float share = _e370 ? 0.0 : (1.0 / _e366);
        uint _e377 = p.row_strides.x;
        uint to_1 = base_4.x + (query_2 * _e377);
        metal::float4 _e384 = o0_;
        store_four(to_1, (lane + 0u) * 4u, _e384 * share, p, out, _buffer_sizes);
        metal::float4 _e390 = o1_;
        store_four(to_1, (lane + 8u) * 4u, _e390 * share, p, out, _buffer_sizes);
        return;
    } else {
        return;
    }
}
