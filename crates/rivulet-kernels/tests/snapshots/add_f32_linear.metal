// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size3;
    uint size4;
};

struct Params {
    metal::uint4 offsets;
    metal::uint4 scalars;
    metal::uint2 extra;
    uint count;
    uint rank;
};
typedef float type_4[1];

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
    metal::uint4 _e4 = p.offsets;
    at = _e4 + metal::uint4(e);
    return;
}

float f_add(
    float a,
    float b
) {
    return a + b;
}

float load_in0_(
    uint i,
    device type_4 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = in0_[i];
    return _e3;
}

float load_in1_(
    uint i_1,
    device type_4 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = in1_[i_1];
    return _e3;
}

float element(
    uint e_1,
    thread metal::uint4& at,
    device type_4 const& in0_,
    device type_4 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint _e3 = at.y;
    float _e4 = load_in0_(_e3, in0_, _buffer_sizes);
    uint _e7 = at.z;
    float _e8 = load_in1_(_e7, in1_, _buffer_sizes);
    float _e9 = f_add(_e4, _e8);
    return _e9;
}

void put_out(
    uint unit_1,
    uint start_1,
    uint count_1,
    constant Params& p,
    device type_4& out,
    thread metal::uint4& at,
    device type_4 const& in0_,
    device type_4 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    locate(unit_1, p, at);
    uint _e6 = at.x;
    float _e8 = element(unit_1, at, in0_, in1_, _buffer_sizes);
    out[_e6] = _e8;
    return;
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(3)]]
, device type_4& out [[buffer(0)]]
, device type_4 const& in0_ [[buffer(1)]]
, device type_4 const& in1_ [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(4)]]
) {
    metal::uint4 at = {};
    uint unit = {};
    uint item = 0u;
    uint _e6 = p.offsets.x;
    uint _e9 = p.count;
    uint _e10 = units_out(_e6, _e9);
    unit = (((group.y * groups.x) + group.x) * 1024u) + local;
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e39 = item;
            item = _e39 + 1u;
        }
        loop_init = false;
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
                put_out(_e27, _e31, _e34, p, out, at, in0_, in1_, _buffer_sizes);
            }
            uint _e35 = unit;
            unit = _e35 + 256u;
        }
    }
    return;
}
