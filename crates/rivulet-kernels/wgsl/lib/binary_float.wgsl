// Ops of two floats.
fn f_add(a: f32, b: f32) -> f32 {
    return a + b;
}
fn f_sub(a: f32, b: f32) -> f32 {
    return a - b;
}
// Scalar 1: alpha.
fn f_add_alpha(a: f32, b: f32) -> f32 {
    return a + scalar_f32(1u) * b;
}
fn f_mul(a: f32, b: f32) -> f32 {
    return a * b;
}
fn f_div(a: f32, b: f32) -> f32 {
    return div_f32(a, b);
}
fn f_div_floor(a: f32, b: f32) -> f32 {
    return div_floor_f32(a, b);
}
fn f_div_trunc(a: f32, b: f32) -> f32 {
    return trunc(div_f32(a, b));
}
// What is cut off is the quotient rounded to the type computed for, which may have reached the next whole number.
fn f_div_trunc_rounded(a: f32, b: f32) -> f32 {
    let q = div_f32(a, b);
    return trunc($ROUNDED);
}
fn f_remainder(a: f32, b: f32) -> f32 {
    return remainder_f32(a, b);
}
fn f_fmod(a: f32, b: f32) -> f32 {
    return fmod_f32(a, b);
}
fn f_pow(a: f32, b: f32) -> f32 {
    return pow_f32(a, b);
}
fn f_maximum(a: f32, b: f32) -> f32 {
    return keep_nan(b, keep_nan(a, select(b, a, a > b)));
}
fn f_minimum(a: f32, b: f32) -> f32 {
    return keep_nan(b, keep_nan(a, select(b, a, a < b)));
}
fn f_fmax(a: f32, b: f32) -> f32 {
    return select(select(f_maximum(a, b), a, is_nan(b)), b, is_nan(a));
}
fn f_fmin(a: f32, b: f32) -> f32 {
    return select(select(f_minimum(a, b), a, is_nan(b)), b, is_nan(a));
}
fn f_atan2(a: f32, b: f32) -> f32 {
    return atan2_f32(a, b);
}
fn f_copysign(a: f32, b: f32) -> f32 {
    return with_sign(a, b);
}
// Scaled by a power of two, so that no square overflows or vanishes.
fn f_hypot(a: f32, b: f32) -> f32 {
    if (is_inf(a) || is_inf(b)) {
        return inf_f32();
    }
    let large = max(abs(a), abs(b));
    let down = select(1.0, 5.42101086e-20, large > 1e18);
    let scale = select(down, 1.8446744e19, large < 1e-18);
    let x = a * scale;
    let y = b * scale;
    return keep_nan(b, keep_nan(a, sqrt(x * x + y * y) / scale));
}
fn f_eq(a: f32, b: f32) -> bool {
    return !is_nan(a) && !is_nan(b) && a == b;
}
fn f_ne(a: f32, b: f32) -> bool {
    return !f_eq(a, b);
}
fn f_lt(a: f32, b: f32) -> bool {
    return !is_nan(a) && !is_nan(b) && a < b;
}
fn f_le(a: f32, b: f32) -> bool {
    return !is_nan(a) && !is_nan(b) && a <= b;
}
fn f_gt(a: f32, b: f32) -> bool {
    return f_lt(b, a);
}
fn f_ge(a: f32, b: f32) -> bool {
    return f_le(b, a);
}
fn f_logical_and(a: f32, b: f32) -> bool {
    return !is_zero(a) && !is_zero(b);
}
fn f_logical_or(a: f32, b: f32) -> bool {
    return !is_zero(a) || !is_zero(b);
}
fn f_logical_xor(a: f32, b: f32) -> bool {
    return is_zero(a) != is_zero(b);
}
// Scalar 1: weight. From the nearer end, as PyTorch.
fn f_lerp_scalar(a: f32, b: f32) -> f32 {
    return t_lerp(a, b, scalar_f32(1u));
}
// b is the mask; scalar 1 the value.
fn f_masked_fill(a: f32, b: f32) -> f32 {
    return select(scalar_f32(1u), a, is_zero(b));
}
fn f_xlogy(a: f32, b: f32) -> f32 {
    if (is_nan(b)) {
        return b;
    }
    return select(a * log_f32(b), 0.0, is_zero(a));
}
fn f_logaddexp(a: f32, b: f32) -> f32 {
    if (is_inf(a) && a == b) {
        return a;
    }
    return f_maximum(a, b) + log1p_f32(exp_f32(-abs(a - b)));
}
// PReLU: b is the slope.
fn f_prelu(a: f32, b: f32) -> f32 {
    return select(a * b, a, a > 0.0);
}
fn f_heaviside(a: f32, b: f32) -> f32 {
    if (is_zero(a)) {
        return b;
    }
    return select(0.0, 1.0, a > 0.0 && !is_nan(a));
}
fn f_mse(a: f32, b: f32) -> f32 {
    return (a - b) * (a - b);
}
// Scalar 1: beta.
fn f_smooth_l1(a: f32, b: f32) -> f32 {
    let beta = scalar_f32(1u);
    let d = abs(a - b);
    return select(d - 0.5 * beta, 0.5 * d * d / beta, d < beta);
}
