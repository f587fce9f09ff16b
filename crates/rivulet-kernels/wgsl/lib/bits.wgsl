// NaN and infinity are tested on bits: a compiler may assume of float comparisons that neither occurs.
const LANE_MASK_8: u32 = 0xffu;
const LANE_MASK_16: u32 = 0xffffu;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
fn is_inf(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
fn is_zero(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0u;
}
fn sign_bit(x: f32) -> u32 {
    return bitcast<u32>(x) & 0x80000000u;
}
// The magnitude of `x` with the sign of `s`.
fn with_sign(x: f32, s: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(x) & 0x7fffffffu) | sign_bit(s));
}
// Through a variable: WGSL refuses a constant that is not finite.
fn inf_f32() -> f32 {
    var bits = 0x7f800000u;
    return bitcast<f32>(bits);
}
fn nan_f32() -> f32 {
    var bits = 0x7fc00000u;
    return bitcast<f32>(bits);
}
// `x` where it is a NaN, else `otherwise`.
fn keep_nan(x: f32, otherwise: f32) -> f32 {
    return select(otherwise, x, is_nan(x));
}
// 2^n for -126 <= n <= 127.
fn pow2i(n: i32) -> f32 {
    return bitcast<f32>(bitcast<u32>(n + 127) << 23u);
}
// x * 2^n for -252 <= n <= 254, without a scale that overflows by itself.
fn scale_pow2(x: f32, n: i32) -> f32 {
    let half = n / 2;
    return x * pow2i(half) * pow2i(n - half);
}
