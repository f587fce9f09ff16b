// Quotients and square roots, correctly rounded. Vulkan lets a device's division be off by 2.5 ULP, its square root by
// more, and both may flush subnormal numbers; so they are first guesses, put right in integers, where the low 32 bits of
// a remainder are all of it.

// x = significand 2^(exponent - 150), where the significand has 24 bits. x is finite and not zero; its sign is left out.
struct Parts {
    significand: u32,
    exponent: i32,
}
fn parts_of(x: f32) -> Parts {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    if (bits < 0x00800000u) {
        let shift = countLeadingZeros(bits) - 8u;
        return Parts(bits << shift, 1 - i32(shift));
    }
    return Parts((bits & 0x7fffffu) | 0x800000u, i32(bits >> 23u));
}
fn div_f32(a: f32, b: f32) -> f32 {
    let sign = sign_bit(a) ^ sign_bit(b);
    if (is_nan(a) || is_nan(b) || (is_inf(a) && is_inf(b)) || (is_zero(a) && is_zero(b))) {
        return nan_f32();
    }
    if (is_inf(a) || is_zero(b)) {
        return with_sign(inf_f32(), bitcast<f32>(sign));
    }
    if (is_zero(a) || is_inf(b)) {
        return bitcast<f32>(sign);
    }
    let x = parts_of(a);
    let y = parts_of(b);
    let less = x.significand < y.significand;
    // The quotient has 25 bits: those of a float and one to round by.
    let shift = select(24u, 25u, less);
    let exponent = x.exponent - y.exponent + select(127, 126, less);
    var q = u32(f32(x.significand) / f32(y.significand) * select(16777216.0, 33554432.0, less));
    var rest = bitcast<i32>((x.significand << shift) - q * y.significand);
    let divisor = i32(y.significand);
    while (rest < 0) {
        q -= 1u;
        rest += divisor;
    }
    while (rest >= divisor) {
        q += 1u;
        rest -= divisor;
    }
    if (exponent >= 255) {
        return with_sign(inf_f32(), bitcast<f32>(sign));
    }
    // A subnormal result loses more bits, and has no exponent.
    let subnormal = exponent <= 0;
    let drop = select(1u, u32(min(2 - exponent, 26)), subnormal);
    let kept = q >> drop;
    let lost = q & ((1u << drop) - 1u);
    let half = 1u << (drop - 1u);
    let up = lost > half || (lost == half && (rest != 0 || (kept & 1u) != 0u));
    let magnitude = select(u32(exponent - 1) << 23u, 0u, subnormal) + kept + select(0u, 1u, up);
    return bitcast<f32>(sign | magnitude);
}
fn sqrt_f32(x: f32) -> f32 {
    if (is_nan(x) || is_zero(x)) {
        return x;
    }
    if (sign_bit(x) != 0u) {
        return nan_f32();
    }
    if (is_inf(x)) {
        return x;
    }
    // x = m 2^e with an even e, so that the root of 2^24 m has 25 bits.
    let parts = parts_of(x);
    let shift = 1 + ((parts.exponent + 1) & 1);
    let e = parts.exponent - 150 - shift;
    let m = parts.significand << u32(shift);
    var root = u32(sqrt(f32(m)) * 4096.0);
    var rest = bitcast<i32>((m << 24u) - root * root);
    while (rest < 0) {
        root -= 1u;
        rest += i32(2u * root + 1u);
    }
    while (rest > i32(2u * root)) {
        rest -= i32(2u * root + 1u);
        root += 1u;
    }
    // There is no tie: an odd root's square is not divisible by 2^24.
    return bitcast<f32>((u32(e / 2 + 138) << 23u) + (root >> 1u) + (root & 1u));
}
