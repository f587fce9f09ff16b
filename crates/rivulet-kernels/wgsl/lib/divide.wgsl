// Division with the remainders of C and of Python.

// Exact a - trunc(a/b) b: long division on the significands, since `%` is only as good as the device's quotient.
fn fmod_f32(a: f32, b: f32) -> f32 {
    if (is_nan(a) || is_nan(b) || is_inf(a) || is_zero(b)) {
        return nan_f32();
    }
    var x = bitcast<u32>(a) & 0x7fffffffu;
    let y_bits = bitcast<u32>(b) & 0x7fffffffu;
    if (x < y_bits) {
        return a;
    }
    // Significands with the hidden bit, in units of 2^(exponent - 150); a subnormal has exponent 1 and no hidden bit.
    var exponent = max(x >> 23u, 1u);
    let stop = max(y_bits >> 23u, 1u);
    var rest = select(x & 0x7fffffu, (x & 0x7fffffu) | 0x800000u, x >= 0x800000u);
    let divisor = select(y_bits & 0x7fffffu, (y_bits & 0x7fffffu) | 0x800000u, y_bits >= 0x800000u);
    rest = rest % divisor;
    while (exponent > stop && rest != 0u) {
        // `rest` is below 2^24, so eight bits of the quotient fit into a step.
        let step = min(exponent - stop, 8u);
        rest = (rest << step) % divisor;
        exponent -= step;
    }
    if (rest == 0u) {
        return bitcast<f32>(sign_bit(a));
    }
    let shift = min(countLeadingZeros(rest) - 8u, stop - 1u);
    rest = rest << shift;
    let biased = stop - shift;
    x = select(rest, (rest & 0x7fffffu) | (biased << 23u), rest >= 0x800000u);
    return bitcast<f32>(x | sign_bit(a));
}
fn remainder_f32(a: f32, b: f32) -> f32 {
    let r = fmod_f32(a, b);
    return select(r, r + b, !is_zero(r) && sign_bit(r) != sign_bit(b));
}
// As PyTorch's div_floor_floating: consistent with remainder, and whole.
fn div_floor_f32(a: f32, b: f32) -> f32 {
    if (is_zero(b)) {
        return div_f32(a, b);
    }
    let r = fmod_f32(a, b);
    var q = div_f32(a - r, b);
    if (!is_zero(r) && sign_bit(r) != sign_bit(b)) {
        q = q - 1.0;
    }
    if (is_zero(q)) {
        return bitcast<f32>(sign_bit(a) ^ sign_bit(b));
    }
    let whole = floor(q);
    return select(whole, whole + 1.0, q - whole > 0.5);
}
// Integers. A zero divisor, which PyTorch refuses on the CPU, counts as 1, and -1 is no division: both would trap on a
// device that is a CPU.
fn quotient_i32(a: i32, b: i32) -> i32 {
    let divisor = select(b, 1, b == 0 || b == -1);
    return select(a / divisor, 0 - a, b == -1);
}
fn quotient_i64(a: i64, b: i64) -> i64 {
    let divisor = select(b, i64(1), b == i64(0) || b == i64(-1));
    return select(a / divisor, i64(0) - a, b == i64(-1));
}
