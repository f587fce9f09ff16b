// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size4;
};

struct Params {
    metal::uint4 offsets;
    uint rows;
    uint size;
    uint inner;
    float eps;
    metal::uint2 stats;
    uint groups;
    uint places;
};
typedef float type_4[1];
struct type_8 {
    float inner[256];
};

uint units_out(
    uint start,
    uint count
) {
    return count;
}

void locate(
    uint e,
    constant Params& p,
    thread metal::uint4& at,
    thread metal::uint4& base
) {
    metal::uint4 _e3 = base;
    uint _e6 = p.inner;
    at = _e3 + metal::uint4(e * _e6);
    return;
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

float load_x(
    uint i,
    device type_4 const& x_5,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = x_5[i];
    return _e3;
}

float row_element(
    uint e_1,
    thread metal::uint4& at,
    device type_4 const& x_5,
    thread metal::float2& stat,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e3 = at.y;
    float _e4 = load_x(_e3, x_5, _buffer_sizes);
    float _e7 = stat.x;
    float _e9 = exp_f32_(_e4 - _e7);
    float _e12 = stat.y;
    return _e9 / _e12;
}

float element(
    uint e_2,
    thread metal::uint4& at,
    device type_4 const& x_5,
    thread metal::float2& stat,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e1 = row_element(e_2, at, x_5, stat, _buffer_sizes);
    return _e1;
}

void put_out(
    uint unit_1,
    uint start_1,
    uint count_1,
    constant Params& p,
    device type_4& out,
    thread metal::uint4& at,
    thread metal::uint4& base,
    device type_4 const& x_5,
    thread metal::float2& stat,
    constant _mslBufferSizes& _buffer_sizes
) {
    locate(unit_1, p, at, base);
    uint _e6 = at.x;
    float _e8 = element(unit_1, at, x_5, stat, _buffer_sizes);
    out[_e6] = _e8;
    return;
}

float row_max(
    float value,
    threadgroup type_8& parts,
    thread uint& lane,
    thread uint& slot
) {
    uint width = 128u;
    uint _e2 = slot;
    uint _e4 = lane;
    uint local_1 = _e2 + _e4;
    parts.inner[local_1] = value;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e28 = width;
            width = _e28 / 2u;
        }
        loop_init = false;
        uint _e10 = width;
        if (_e10 > 0u) {
        } else {
            break;
        }
        {
            uint _e14 = lane;
            uint _e15 = width;
            if (_e14 < _e15) {
                float _e21 = parts.inner[local_1];
                uint _e23 = width;
                float _e26 = parts.inner[local_1 + _e23];
                parts.inner[local_1] = metal::max(_e21, _e26);
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    uint _e33 = slot;
    float total = parts.inner[_e33];
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    return total;
}

float row_sum(
    float value_1,
    threadgroup type_8& parts,
    thread uint& lane,
    thread uint& slot
) {
    uint width_1 = 128u;
    uint _e2 = slot;
    uint _e4 = lane;
    uint local_2 = _e2 + _e4;
    parts.inner[local_2] = value_1;
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e26 = width_1;
            width_1 = _e26 / 2u;
        }
        loop_init_1 = false;
        uint _e10 = width_1;
        if (_e10 > 0u) {
        } else {
            break;
        }
        {
            uint _e14 = lane;
            uint _e15 = width_1;
            if (_e14 < _e15) {
                float _e19 = parts.inner[local_2];
                uint _e21 = width_1;
                float _e24 = parts.inner[local_2 + _e21];
                parts.inner[local_2] = _e19 + _e24;
            }
            metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        }
    }
    uint _e31 = slot;
    float total_1 = parts.inner[_e31];
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    return total_1;
}

float nan_f32_(
) {
    uint bits_1 = 2143289344u;
    uint _e2 = bits_1;
    return as_type<float>(_e2);
}

void statistics(
    constant Params& p,
    thread metal::uint4& base,
    device type_4 const& x_5,
    thread metal::float2& stat,
    threadgroup type_8& parts,
    thread uint& lane,
    thread uint& slot,
    constant _mslBufferSizes& _buffer_sizes
) {
    float highest = {};
    float sum = 0.0;
    uint e_3 = {};
    float _e0 = inf_f32_();
    highest = -(_e0);
    uint _e6 = lane;
    e_3 = _e6;
    bool loop_init_2 = true;
    while(true) {
        if (!loop_init_2) {
            uint _e40 = e_3;
            e_3 = _e40 + 256u;
        }
        loop_init_2 = false;
        uint _e8 = e_3;
        uint _e11 = p.size;
        if (_e8 < _e11) {
        } else {
            break;
        }
        {
            uint _e15 = base.y;
            uint _e16 = e_3;
            uint _e19 = p.inner;
            float _e22 = load_x(_e15 + (_e16 * _e19), x_5, _buffer_sizes);
            float _e23 = highest;
            if (_e22 > _e23) {
                float _e25 = sum;
                float _e26 = highest;
                float _e28 = exp_f32_(_e26 - _e22);
                sum = (_e25 * _e28) + 1.0;
                highest = _e22;
            } else {
                if (as_type<uint>(_e22) != 4286578688u) {
                    float _e35 = sum;
                    float _e36 = highest;
                    float _e38 = exp_f32_(_e22 - _e36);
                    sum = _e35 + _e38;
                }
            }
        }
    }
    float _e43 = highest;
    float _e44 = row_max(_e43, parts, lane, slot);
    float _e45 = sum;
    float _e46 = highest;
    float _e48 = exp_f32_(_e46 - _e44);
    float _e50 = sum;
    float _e51 = highest;
    float share = (as_type<uint>(_e51) == 4286578688u) ? _e50 : (_e45 * _e48);
    float _e56 = row_sum(share, parts, lane, slot);
    float _e57 = nan_f32_();
    float sum_of_all = (as_type<uint>(_e44) == 2139095040u) ? _e57 : _e56;
    stat = metal::float2(_e44, sum_of_all);
    return;
}

void finish_row(
) {
    return;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(2)]]
, device type_4& out [[buffer(0)]]
, device type_4 const& x_5 [[buffer(1)]]
, threadgroup type_8& parts
, constant _mslBufferSizes& _buffer_sizes [[buffer(3)]]
) {
    metal::uint4 at = {};
    metal::uint4 base = {};
    metal::float2 stat = {};
    uint lane = {};
    uint slot = {};
    uint row = {};
    uint unit = {};
    lane = local % 256u;
    uint _e8 = lane;
    slot = local - _e8;
    uint wanted = (((group.y * groups.x) + group.x) * 1u) + (local / 256u);
    uint _e23 = p.rows;
    row = metal::min(wanted, _e23 - 1u);
    uint _e28 = row;
    uint _e31 = p.inner;
    uint _e35 = p.size;
    uint _e38 = p.inner;
    uint _e42 = row;
    uint _e45 = p.inner;
    uint first = ((_e28 / _e31) * (_e35 * _e38)) + (_e42 % _e45);
    metal::uint4 _e51 = p.offsets;
    base = _e51 + metal::uint4(first);
    statistics(p, base, x_5, stat, parts, lane, slot, _buffer_sizes);
    uint _e56 = p.rows;
    if (wanted < _e56) {
        uint _e60 = base.x;
        uint _e63 = p.size;
        uint _e64 = units_out(_e60, _e63);
        uint _e66 = lane;
        unit = _e66;
        bool loop_init_3 = true;
        while(true) {
            if (!loop_init_3) {
                uint _e77 = unit;
                unit = _e77 + 256u;
            }
            loop_init_3 = false;
            uint _e68 = unit;
            if (_e68 < _e64) {
            } else {
                break;
            }
            {
                uint _e70 = unit;
                uint _e73 = base.x;
                uint _e76 = p.size;
                put_out(_e70, _e73, _e76, p, out, at, base, x_5, stat, _buffer_sizes);
            }
        }
        uint _e81 = lane;
        if (_e81 == 0u) {
            finish_row();
            return;
        } else {
            return;
        }
    } else {
        return;
    }
}
