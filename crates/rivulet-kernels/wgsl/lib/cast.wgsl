// PyTorch's casts. A float that no integer of the target holds gives its smallest value, as on x86.
fn cast_f32_i32(x: f32) -> i32 {
    let outside = (bitcast<u32>(x) & 0x7fffffffu) >= 0x4f000000u;
    return select(i32(select(x, 0.0, outside)), i32(-2147483647 - 1), outside);
}
fn cast_f32_i64(x: f32) -> i64 {
    let bits = bitcast<u32>(x);
    let exponent = i32((bits >> 23u) & 0xffu) - 150;
    if (exponent < 0) {
        return i64(cast_f32_i32(x));
    }
    // From 2^23 on a float is an integer: its significand, shifted.
    let magnitude = i64((bits & 0x7fffffu) | 0x800000u) << u32(min(exponent, 40));
    let value = select(magnitude, -magnitude, (bits >> 31u) != 0u);
    return select(value, i64(1) << 63u, exponent >= 40);
}
fn cast_i32_f32(x: i32) -> f32 {
    return f32(x);
}
fn cast_i32_i64(x: i32) -> i64 {
    return i64(x);
}
fn unsigned_i32(x: u32) -> i32 {
    return i32(x);
}
// By way of u64: naga 30 writes i64(u32) as a conversion of signed numbers.
fn unsigned_i64(x: u32) -> i64 {
    return i64(u64(x));
}
fn cast_i64_f32(x: i64) -> f32 {
    return f32(x);
}
fn cast_i64_i32(x: i64) -> i32 {
    return i32(x);
}
fn truth_f32(x: f32) -> i32 {
    return select(1, 0, is_zero(x));
}
fn truth_i32(x: i32) -> i32 {
    return select(0, 1, x != 0);
}
fn truth_i64(x: i64) -> i32 {
    return select(0, 1, x != i64(0));
}
