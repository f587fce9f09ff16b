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
struct type_7 {
    metal::float4 inner[256];
};
struct type_8 {
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

metal::float4 four_q(
    uint base_1,
    uint d_2,
    constant Params& p,
    device type_4 const& q,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e2 = fetch_q(base_1, d_2, p, q, _buffer_sizes);
    float _e5 = fetch_q(base_1, d_2 + 1u, p, q, _buffer_sizes);
    float _e8 = fetch_q(base_1, d_2 + 2u, p, q, _buffer_sizes);
    float _e11 = fetch_q(base_1, d_2 + 3u, p, q, _buffer_sizes);
    return metal::float4(_e2, _e5, _e8, _e11);
}

float fetch_k(
    uint base_2,
    uint d_3,
    constant Params& p,
    device type_4 const& k,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e4 = p.dim;
    if (d_3 < _e4) {
        float _e7 = load_k(base_2 + d_3, k, _buffer_sizes);
        return _e7;
    }
    return 0.0;
}

metal::float4 four_k(
    uint base_3,
    uint d_4,
    constant Params& p,
    device type_4 const& k,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e2 = fetch_k(base_3, d_4, p, k, _buffer_sizes);
    float _e5 = fetch_k(base_3, d_4 + 1u, p, k, _buffer_sizes);
    float _e8 = fetch_k(base_3, d_4 + 2u, p, k, _buffer_sizes);
    float _e11 = fetch_k(base_3, d_4 + 3u, p, k, _buffer_sizes);
    return metal::float4(_e2, _e5, _e8, _e11);
}

float fetch_v(
    uint base_4,
    uint d_5,
    constant Params& p,
    device type_4 const& v,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e4 = p.dim;
    if (d_5 < _e4) {
        float _e7 = load_v(base_4 + d_5, v, _buffer_sizes);
        return _e7;
    }
    return 0.0;
}

metal::float4 four_v(
    uint base_5,
    uint d_6,
    constant Params& p,
    device type_4 const& v,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e2 = fetch_v(base_5, d_6, p, v, _buffer_sizes);
    float _e5 = fetch_v(base_5, d_6 + 1u, p, v, _buffer_sizes);
    float _e8 = fetch_v(base_5, d_6 + 2u, p, v, _buffer_sizes);
    float _e11 = fetch_v(base_5, d_6 + 3u, p, v, _buffer_sizes);
    return metal::float4(_e2, _e5, _e8, _e11);
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
    uint base_6,
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
    int _e26 = load_mask((base_6 + (query_1 * _e17)) + (key_1 * _e23), mask, _buffer_sizes);
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
    uint d_7,
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
            if ((d_7 + _e8) < _e12) {
                uint _e15 = j_4;
                uint i_7 = (to + d_7) + _e15;
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
, threadgroup type_7& tile_q
, threadgroup type_7& tile
, threadgroup type_8& scores
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
    metal::uint4 base_7 = (_e12 + (group.z * _e16)) + (heads * _e21);
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
            uint _e83 = i;
            i = _e83 + 128u;
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
            uint start = base_7.y + (metal::min(first_query + (_e59 / 16u), last) * _e67);
            uint _e70 = i;
            uint d_8 = (_e70 % 16u) * 4u;
            uint _e76 = i;
            metal::float4 _e78 = four_q(start, d_8, p, q, _buffer_sizes);
            float _e81 = p.scale;
            tile_q.inner[_e76] = _e78 * _e81;
        }
    }
    float _e86 = inf_f32_();
    highest = -(_e86);
    int _e100 = p.diagonal;
    uint _e104 = p.keys;
    uint end = static_cast<uint>(metal::clamp(as_type<int>(as_type<uint>(as_type<int>(as_type<uint>(static_cast<int>(first_query)) + as_type<uint>(16))) + as_type<uint>(_e100)), 0, static_cast<int>(_e104)));
    bool loop_init_2 = true;
    while(true) {
        if (!loop_init_2) {
            uint _e329 = first;
            first = _e329 + 16u;
        }
        loop_init_2 = false;
        uint _e111 = first;
        if (_e111 < end) {
        } else {
            break;
        }
        {
            i_1 = local;
            bool loop_init_3 = true;
            while(true) {
                if (!loop_init_3) {
                    uint _e144 = i_1;
                    i_1 = _e144 + 128u;
                }
                loop_init_3 = false;
                uint _e114 = i_1;
                if (_e114 < 256u) {
                } else {
                    break;
                }
                {
                    uint _e118 = first;
                    uint _e119 = i_1;
                    uint _e125 = p.keys;
                    uint _e132 = p.row_strides.z;
                    uint start_1 = base_7.z + (metal::min(_e118 + (_e119 / 16u), _e125 - 1u) * _e132);
                    uint _e135 = i_1;
                    uint d_9 = (_e135 % 16u) * 4u;
                    uint _e141 = i_1;
                    metal::float4 _e143 = four_k(start_1, d_9, p, k, _buffer_sizes);
                    tile.inner[_e141] = _e143;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            j = lane;
            bool loop_init_4 = true;
            while(true) {
                if (!loop_init_4) {
                    uint _e190 = j;
                    j = _e190 + 8u;
                }
                loop_init_4 = false;
                uint _e148 = j;
                if (_e148 < 16u) {
                } else {
                    break;
                }
                {
                    score = 0.0;
                    d = 0u;
                    bool loop_init_5 = true;
                    while(true) {
                        if (!loop_init_5) {
                            uint _e177 = d;
                            d = _e177 + 1u;
                        }
                        loop_init_5 = false;
                        uint _e155 = d;
                        if (_e155 < 16u) {
                        } else {
                            break;
                        }
                        {
                            float _e158 = score;
                            uint _e162 = d;
                            metal::float4 _e165 = tile_q.inner[(slot * 16u) + _e162];
                            uint _e167 = j;
                            uint _e170 = d;
                            metal::float4 _e173 = tile.inner[(_e167 * 16u) + _e170];
                            score = _e158 + metal::dot(_e165, _e173);
                        }
                    }
                    uint _e182 = j;
                    float _e185 = score;
                    uint _e186 = first;
                    uint _e187 = j;
                    float _e189 = masked(_e185, mask_base, query_2, _e186 + _e187, p, mask, _buffer_sizes);
                    scores.inner[(slot * 16u) + _e182] = _e189;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            i_2 = local;
            bool loop_init_6 = true;
            while(true) {
                if (!loop_init_6) {
                    uint _e224 = i_2;
                    i_2 = _e224 + 128u;
                }
                loop_init_6 = false;
                uint _e194 = i_2;
                if (_e194 < 256u) {
                } else {
                    break;
                }
                {
                    uint _e198 = first;
                    uint _e199 = i_2;
                    uint _e205 = p.keys;
                    uint _e212 = p.row_strides.w;
                    uint start_2 = base_7.w + (metal::min(_e198 + (_e199 / 16u), _e205 - 1u) * _e212);
                    uint _e215 = i_2;
                    uint d_10 = (_e215 % 16u) * 4u;
                    uint _e221 = i_2;
                    metal::float4 _e223 = four_v(start_2, d_10, p, v, _buffer_sizes);
                    tile.inner[_e221] = _e223;
                }
            }
            float _e227 = highest;
            top = _e227;
            j_1 = 0u;
            bool loop_init_7 = true;
            while(true) {
                if (!loop_init_7) {
                    uint _e244 = j_1;
                    j_1 = _e244 + 1u;
                }
                loop_init_7 = false;
                uint _e231 = j_1;
                if (_e231 < 16u) {
                } else {
                    break;
                }
                {
                    float _e234 = top;
                    uint _e238 = j_1;
                    float _e241 = scores.inner[(slot * 16u) + _e238];
                    float _e242 = f_maximum(_e234, _e241);
                    top = _e242;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            float _e246 = top;
            bool nothing = as_type<uint>(_e246) == 4286578688u;
            float _e250 = highest;
            float _e251 = top;
            float _e253 = exp_f32_(_e250 - _e251);
            float factor = nothing ? 1.0 : _e253;
            j_2 = lane;
            bool loop_init_8 = true;
            while(true) {
                if (!loop_init_8) {
                    uint _e278 = j_2;
                    j_2 = _e278 + 8u;
                }
                loop_init_8 = false;
                uint _e257 = j_2;
                if (_e257 < 16u) {
                } else {
                    break;
                }
                {
                    uint _e263 = j_2;
                    float score_2 = scores.inner[(slot * 16u) + _e263];
                    uint _e270 = j_2;
                    float _e273 = top;
                    float _e275 = exp_f32_(score_2 - _e273);
                    scores.inner[(slot * 16u) + _e270] = nothing ? 0.0 : _e275;
                }
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
            float _e281 = sum;
            sum = _e281 * factor;
            metal::float4 _e283 = o0_;
            o0_ = _e283 * factor;
            metal::float4 _e285 = o1_;
            o1_ = _e285 * factor;
            j_3 = 0u;
            bool loop_init_9 = true;
            while(true) {
                if (!loop_init_9) {
                    uint _e326 = j_3;
                    j_3 = _e326 + 1u;
                }
                loop_init_9 = false;
                uint _e289 = j_3;
                if (_e289 < 16u) {
                } else {
                    break;
                }
                {
                    uint _e295 = j_3;
                    float weight = scores.inner[(slot * 16u) + _e295];
                    float _e299 = sum;
                    sum = _e299 + weight;
                    uint _e303 = j_3;
                    metal::float4 _e310 = tile.inner[((_e303 * 16u) + lane) + 0u];
                    metal::float4 _e311 = o0_;
                    o0_ = metal::fma(metal::float4(weight), _e310, _e311);
                    uint _e315 = j_3;
                    metal::float4 _e322 = tile.inner[((_e315 * 16u) + lane) + 8u];
                    metal::float4 _e323 = o1_;
                    o1_ = metal::fma(metal::float4(weight), _e322, _e323);
                }
            }
            float _e328 = top;
            highest = _e328;
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    uint _e334 = p.queries;
    if (query_2 < _e334) {
        float _e336 = sum;
        float _e339 = sum;
        bool _e340 = is_zero(_e339);
        float share = _e340 ? 0.0 : (1.0 / _e336);
        uint _e347 = p.row_strides.x;
        uint to_1 = base_7.x + (query_2 * _e347);
        metal::float4 _e354 = o0_;
        store_four(to_1, (lane + 0u) * 4u, _e354 * share, p, out, _buffer_sizes);
        metal::float4 _e360 = o1_;
        store_four(to_1, (lane + 8u) * 4u, _e360 * share, p, out, _buffer_sizes);
        return;
    } else {
        return;
    }
}
