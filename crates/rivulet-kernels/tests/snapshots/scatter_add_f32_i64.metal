// language: metal3.0
#include <metal_stdlib>
#include <simd/simd.h>

using metal::uint;

struct _mslBufferSizes {
    uint size1;
    uint size2;
    uint size3;
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
typedef long type_7[1];
typedef float type_9[1];
struct _atomic_compare_exchange_result_Uint_4_ {
    uint old_value;
    bool exchanged;
    char _pad2[3];
};

template <typename A>
_atomic_compare_exchange_result_Uint_4_ naga_atomic_compare_exchange_weak_explicit(
    device A *atomic_ptr,
    uint cmp,
    uint v
) {
    bool swapped = metal::atomic_compare_exchange_weak_explicit(
        atomic_ptr, &cmp, v,
        metal::memory_order_relaxed, metal::memory_order_relaxed
    );
    return _atomic_compare_exchange_result_Uint_4_{cmp, swapped};
}
template <typename A>
_atomic_compare_exchange_result_Uint_4_ naga_atomic_compare_exchange_weak_explicit(
    threadgroup A *atomic_ptr,
    uint cmp,
    uint v
) {
    bool swapped = metal::atomic_compare_exchange_weak_explicit(
        atomic_ptr, &cmp, v,
        metal::memory_order_relaxed, metal::memory_order_relaxed
    );
    return _atomic_compare_exchange_result_Uint_4_{cmp, swapped};
}

long load_in0_(
    uint i,
    device type_7 const& in0_,
    constant _mslBufferSizes& _buffer_sizes
) {
    long _e3 = in0_[i];
    return _e3;
}

float load_in1_(
    uint i_1,
    device type_9 const& in1_,
    constant _mslBufferSizes& _buffer_sizes
) {
    float _e3 = in1_[i_1];
    return _e3;
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

float join_sum(
    float a,
    float b
) {
    return a + b;
}

void change(
    uint i_2,
    float value,
    device type_5& out,
    constant _mslBufferSizes& _buffer_sizes
) {
    uint before = {};
    uint word = i_2 / 1u;
    uint shift = (i_2 % 1u) * 32u;
    uint _e10 = metal::atomic_load_explicit(&out[word], metal::memory_order_relaxed);
    before = _e10;
    while(true) {
        uint _e12 = before;
        float _e15 = join_sum(as_type<float>(_e12 >> shift), value);
        uint joined = as_type<uint>(_e15);
        uint _e17 = before;
        uint after = (_e17 & ~((4294967295u << shift))) | ((joined & 4294967295u) << shift);
        uint _e28 = before;
        _atomic_compare_exchange_result_Uint_4_ _e29 = naga_atomic_compare_exchange_weak_explicit(&out[word], _e28, after);
        if (_e29.exchanged) {
            break;
        }
        before = _e29.old_value;
    }
    return;
}

uint wrapped_index(
    long i_3,
    constant Params& p
) {
    bool local_1 = {};
    uint _e4 = p.extra.x;
    long size_1 = static_cast<long>(_e4);
    long from_start = (i_3 < 0L) ? as_type<long>(as_type<ulong>(i_3) + as_type<ulong>(size_1)) : i_3;
    if (!((from_start < 0L))) {
        local_1 = from_start >= size_1;
    } else {
        local_1 = true;
    }
    bool _e19 = local_1;
    return _e19 ? 4294967295u : static_cast<uint>(from_start);
}

struct main_Input {
};
[[max_total_threads_per_threadgroup(256)]] kernel void main_(
  metal::uint3 group [[threadgroup_position_in_grid]]
, metal::uint3 groups [[threadgroups_per_grid]]
, uint local [[thread_index_in_threadgroup]]
, constant Params& p [[buffer(3)]]
, device type_5& out [[buffer(0)]]
, device type_7 const& in0_ [[buffer(1)]]
, device type_9 const& in1_ [[buffer(2)]]
, constant _mslBufferSizes& _buffer_sizes [[buffer(4)]]
) {
    metal::uint4 at = {};
    uint e_1 = (((group.y * groups.x) + group.x) * 256u) + local;
    uint _e13 = p.count;
    if (e_1 >= _e13) {
        return;
    }
    locate(e_1, p, at);
    uint _e17 = at.y;
    long _e18 = load_in0_(_e17, in0_, _buffer_sizes);
    uint _e19 = wrapped_index(_e18, p);
    if (_e19 != 4294967295u) {
        uint _e24 = at.x;
        uint _e28 = p.extra.y;
        uint _e33 = at.z;
        float _e34 = load_in1_(_e33, in1_, _buffer_sizes);
        change(_e24 + (_e19 * _e28), _e34, out, _buffer_sizes);
        return;
    } else {
        return;
    }
}
