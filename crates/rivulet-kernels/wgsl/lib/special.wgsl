// The inverse of the error function and what else comes of it, entropies, and functions of two floats.

// erfinv of x, given w = -log((1 - x)(1 + x)) (M. Giles: Approximating the erfinv function, single precision).
fn erfinv_from(x: f32, logarithm: f32) -> f32 {
    var p = 0.0;
    if (logarithm < 5.0) {
        let w = logarithm - 2.5;
        p = 2.81022636e-8;
        p = fma(p, w, 3.43273939e-7);
        p = fma(p, w, -3.5233877e-6);
        p = fma(p, w, -4.39150654e-6);
        p = fma(p, w, 2.1858087e-4);
        p = fma(p, w, -1.25372503e-3);
        p = fma(p, w, -4.17768164e-3);
        p = fma(p, w, 2.46640727e-1);
        p = fma(p, w, 1.50140941);
    } else {
        let w = sqrt(logarithm) - 3.0;
        p = -2.00214257e-4;
        p = fma(p, w, 1.00950558e-4);
        p = fma(p, w, 1.34934322e-3);
        p = fma(p, w, -3.67342844e-3);
        p = fma(p, w, 5.73950773e-3);
        p = fma(p, w, -7.6224613e-3);
        p = fma(p, w, 9.43887047e-3);
        p = fma(p, w, 1.00167406);
        p = fma(p, w, 2.83297682);
    }
    return p * x;
}
// 8 ULP.
fn f_erfinv(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || a > 1.0) {
        return nan_f32();
    }
    if (a == 1.0) {
        return with_sign(inf_f32(), x);
    }
    return erfinv_from(x, -select(log1p_f32(-x * x), log_f32((1.0 - a) * (1.0 + a)), a > 0.5));
}
// e^(x^2) erfc(x), by erfc's own rational argument, without the exponential of -x^2.
fn erfcx_f32(x: f32) -> f32 {
    let z = abs(x);
    let t = 1.0 / fma(0.5, z, 1.0);
    let y = erfc_exponent(t);
    let value = t * exp_f32(y);
    if (x >= 0.0) {
        return value;
    }
    if (x < -9.5) {
        return inf_f32();
    }
    // z^2 as an exact square and the rest.
    let whole = upper(z);
    let square = exp_f32(whole * whole) * exp_f32((z - whole) * (z + whole));
    return keep_nan(x, 2.0 * square - value);
}
fn f_erfcx(x: f32) -> f32 {
    return erfcx_f32(x);
}
fn log_ndtr_f32(x: f32) -> f32 {
    let t = x * 0.707106781186547524;
    if (x < -1.0) {
        return log_f32(erfcx_f32(-t) * 0.5) - t * t;
    }
    return log1p_f32(-0.5 * erfc_f32(t));
}
fn f_log_ndtr(x: f32) -> f32 {
    return log_ndtr_f32(x);
}
fn f_ndtri(x: f32) -> f32 {
    if (is_nan(x) || x < 0.0 || x > 1.0) {
        return nan_f32();
    }
    if (is_zero(x) || x == 1.0) {
        return select(inf_f32(), -inf_f32(), is_zero(x));
    }
    let centered = 2.0 * x - 1.0;
    let w = -select(log1p_f32(-centered * centered), log_f32(4.0 * x * (1.0 - x)), abs(centered) > 0.5);
    if (w < 16.0) {
        return 1.41421356237309505 * erfinv_from(centered, w);
    }
    // Far out on the left (on the right there are no floats), by Newton's method on the logarithm.
    let wanted = log_f32(x);
    var z = sqrt(-2.0 * wanted);
    for (var k = 0u; k < 5u; k++) {
        z += (log_ndtr_f32(-z) - wanted) * erfcx_f32(z * 0.707106781186547524) * 1.25331413731550025;
    }
    return -z;
}
fn f_entr(x: f32) -> f32 {
    if (is_zero(x)) {
        return 0.0;
    }
    // By its bits: a comparison may take a subnormal for zero.
    return keep_nan(x, select(-inf_f32(), -x * log_f32(x), bitcast<i32>(x) > 0));
}
fn f_sinc(x: f32) -> f32 {
    let angle = x * 3.14159265358979324;
    return select(sin_f32(angle) / angle, 1.0, is_zero(x));
}
// Scalars: a power of ten, and whether it is divided by (a negative number of decimals).
fn f_round_decimals(x: f32) -> f32 {
    let ten = scalar_f32(0u);
    if (scalar_f32(1u) != 0.0) {
        return round(div_f32(x, ten)) * ten;
    }
    return div_f32(round(x * ten), ten);
}
// Scalar: eps.
fn f_logit_eps(x: f32) -> f32 {
    let eps = scalar_f32(0u);
    let z = keep_nan(x, min(max(x, eps), 1.0 - eps));
    return log_f32(z / (1.0 - z));
}
fn f_xlog1py(a: f32, b: f32) -> f32 {
    if (is_nan(b)) {
        return b;
    }
    return select(a * log1p_f32(b), 0.0, is_zero(a));
}
fn f_logaddexp2(a: f32, b: f32) -> f32 {
    if (is_inf(a) && a == b) {
        return a;
    }
    return f_maximum(a, b) + log1p_f32(exp2_f32(-abs(a - b))) * 1.44269504088896341;
}
fn f_nextafter(a: f32, b: f32) -> f32 {
    if (is_nan(a) || is_nan(b)) {
        return nan_f32();
    }
    let x = bitcast<u32>(a);
    if (x == bitcast<u32>(b) || (is_zero(a) && is_zero(b))) {
        return b;
    }
    if (is_zero(a)) {
        return bitcast<f32>(sign_bit(b) | 1u);
    }
    // Ordered as integers, since a device may take a subnormal for 0.
    let away = (ordered_f32(a) < ordered_f32(b)) == (sign_bit(a) == 0u);
    return bitcast<f32>(select(x - 1u, x + 1u, away));
}
fn f_ldexp(a: f32, b: f32) -> f32 {
    return a * exp2_f32(b);
}
// Scalar 1: delta.
fn f_huber(a: f32, b: f32) -> f32 {
    let delta = scalar_f32(1u);
    let d = abs(a - b);
    return select(delta * (d - 0.5 * delta), 0.5 * d * d, d <= delta);
}
fn f_glu(a: f32, b: f32) -> f32 {
    return a * f_sigmoid(b);
}
fn i_heaviside(a: $C, b: $C) -> $C {
    return select(select($C(0), $C(1), a > $C(0)), b, a == $C(0));
}
fn i_lcm(a: $C, b: $C) -> $C {
    let divisor = i_gcd(a, b);
    if (divisor == $C(0)) {
        return divisor;
    }
    return i_abs(quotient_$C(a, divisor) * b);
}
