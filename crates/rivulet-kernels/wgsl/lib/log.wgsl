// Logarithms. Polynomial and split constants: Cephes, logf.c, log2f.c, log10f.c (S. Moshier).

// x = 2^e (1 + m) with 1 + m in [sqrt(1/2), sqrt(2)), and log(1 + m) = m + y.
struct LogParts {
    e: f32,
    m: f32,
    y: f32,
}
fn log_parts(x: f32) -> LogParts {
    var bits = bitcast<u32>(x);
    var e = 0;
    if (bits < 0x00800000u) {
        // A subnormal, as a whole number of 2^-149: a device may flush x itself to zero.
        bits = bitcast<u32>(f32(bits));
        e = -149;
    }
    // 0x3f3504f3 is sqrt(1/2).
    let shifted = bits - 0x3f3504f3u;
    e += bitcast<i32>(shifted) >> 23u;
    let m = bitcast<f32>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0;
    var y = 7.0376836292e-2;
    y = fma(y, m, -1.1514610310e-1);
    y = fma(y, m, 1.1676998740e-1);
    y = fma(y, m, -1.2420140846e-1);
    y = fma(y, m, 1.4249322787e-1);
    y = fma(y, m, -1.6668057665e-1);
    y = fma(y, m, 2.0000714765e-1);
    y = fma(y, m, -2.4999993993e-1);
    y = fma(y, m, 3.3333331174e-1);
    let z = m * m;
    return LogParts(f32(e), m, y * m * z);
}
// The value of a logarithm where its argument is not positive and finite, else `value`.
fn log_special(x: f32, value: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) == 0u) {
        return -inf_f32();
    }
    if (bits >= 0x7f800000u) {
        return select(select(nan_f32(), x, bits == 0x7f800000u), x, is_nan(x));
    }
    return value;
}
// 2 ULP.
fn log_f32(x: f32) -> f32 {
    let parts = log_parts(x);
    var y = parts.y - parts.e * 2.12194440e-4;
    y = y - 0.5 * (parts.m * parts.m);
    return log_special(x, (parts.m + y) + parts.e * 0.693359375);
}
// 3 ULP. log2(e) = 1 + 0.4427.
fn log2_f32(x: f32) -> f32 {
    let parts = log_parts(x);
    let y = parts.y - 0.5 * (parts.m * parts.m);
    let low = y * 0.44269504088896340736 + parts.m * 0.44269504088896340736;
    return log_special(x, ((low + y) + parts.m) + parts.e);
}
// 3 ULP. log10(2) = 0.30078125 + 2.487e-4, log10(e) = 0.43359375 + 7.007e-4.
fn log10_f32(x: f32) -> f32 {
    let parts = log_parts(x);
    let y = parts.y - 0.5 * (parts.m * parts.m);
    var z = (parts.m + y) * 7.00731903251827651129e-4;
    z = z + parts.e * 2.48745663981195213739e-4;
    z = z + y * 0.43359375;
    z = z + parts.m * 0.43359375;
    return log_special(x, z + parts.e * 0.30078125);
}
// 3 ULP. What rounding 1 + x lost is put back as a first-order term (W. Kahan).
fn log1p_f32(x: f32) -> f32 {
    let u = 1.0 + x;
    let lost = select(x - (u - 1.0), 1.0 - (u - x), x > 1.0);
    let value = select(log_f32(u) + lost / u, x, u == 1.0);
    let plain = !is_finite(x) || x <= -1.0;
    return select(value, log_f32(u), plain);
}
