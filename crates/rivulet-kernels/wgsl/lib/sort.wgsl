// Keys that are ordered as integers: all NaNs are one and come last, zeros are equal whatever their signs.
fn ordered_f32(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let key = select(bits ^ 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
    return select(select(key, 0x80000000u, is_zero(x)), 0xffffffffu, is_nan(x));
}
fn ordered_i32(x: i32) -> u32 {
    return bitcast<u32>(x) ^ 0x80000000u;
}
fn ordered_i64(x: i64) -> i64 {
    return x;
}
fn highest_u32() -> u32 {
    return 0xffffffffu;
}
// First element of a row of a tensor `[outer, size, inner]`, where a row is one (outer, inner).
fn row_start(row: u32, size: u32) -> u32 {
    return row / p.inner * (size * p.inner) + row % p.inner;
}
