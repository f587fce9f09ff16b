// Ops of one float. What has a name of its own in the maths files is only passed on.
fn f_copy(x: f32) -> f32 {
    return x;
}
fn f_neg(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ 0x80000000u);
}
fn f_abs(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0x7fffffffu);
}
// Of a NaN it is 0, as PyTorch's is.
fn f_sign(x: f32) -> f32 {
    return select(with_sign(1.0, x), 0.0, is_zero(x) || is_nan(x));
}
fn f_square(x: f32) -> f32 {
    return x * x;
}
fn f_sqrt(x: f32) -> f32 {
    return sqrt_f32(x);
}
fn f_rsqrt(x: f32) -> f32 {
    if (is_zero(x)) {
        return with_sign(inf_f32(), x);
    }
    return 1.0 / sqrt_f32(x);
}
fn f_reciprocal(x: f32) -> f32 {
    return div_f32(1.0, x);
}
fn f_exp(x: f32) -> f32 {
    return exp_f32(x);
}
fn f_exp2(x: f32) -> f32 {
    return exp2_f32(x);
}
fn f_expm1(x: f32) -> f32 {
    return expm1_f32(x);
}
fn f_log(x: f32) -> f32 {
    return log_f32(x);
}
fn f_log2(x: f32) -> f32 {
    return log2_f32(x);
}
fn f_log10(x: f32) -> f32 {
    return log10_f32(x);
}
fn f_log1p(x: f32) -> f32 {
    return log1p_f32(x);
}
fn f_sin(x: f32) -> f32 {
    return sin_f32(x);
}
fn f_cos(x: f32) -> f32 {
    return cos_f32(x);
}
fn f_tan(x: f32) -> f32 {
    return tan_f32(x);
}
fn f_asin(x: f32) -> f32 {
    return asin_f32(x);
}
fn f_acos(x: f32) -> f32 {
    return acos_f32(x);
}
fn f_atan(x: f32) -> f32 {
    return atan_f32(x);
}
fn f_sinh(x: f32) -> f32 {
    return sinh_f32(x);
}
fn f_cosh(x: f32) -> f32 {
    return cosh_f32(x);
}
fn f_tanh(x: f32) -> f32 {
    return tanh_f32(x);
}
fn f_asinh(x: f32) -> f32 {
    return asinh_f32(x);
}
fn f_acosh(x: f32) -> f32 {
    return acosh_f32(x);
}
fn f_atanh(x: f32) -> f32 {
    return atanh_f32(x);
}
fn f_erf(x: f32) -> f32 {
    return erf_f32(x);
}
fn f_erfc(x: f32) -> f32 {
    return erfc_f32(x);
}
fn f_floor(x: f32) -> f32 {
    return floor(x);
}
fn f_ceil(x: f32) -> f32 {
    return ceil(x);
}
// Half to even, as WGSL has it.
fn f_round(x: f32) -> f32 {
    return round(x);
}
fn f_trunc(x: f32) -> f32 {
    return trunc(x);
}
fn f_frac(x: f32) -> f32 {
    return select(x - trunc(x), nan_f32(), is_inf(x));
}
fn f_logical_not(x: f32) -> bool {
    return is_zero(x);
}
fn f_isnan(x: f32) -> bool {
    return is_nan(x);
}
fn f_isinf(x: f32) -> bool {
    return is_inf(x);
}
fn f_isposinf(x: f32) -> bool {
    return bitcast<u32>(x) == 0x7f800000u;
}
fn f_isneginf(x: f32) -> bool {
    return bitcast<u32>(x) == 0xff800000u;
}
fn f_isfinite(x: f32) -> bool {
    return is_finite(x);
}
fn f_signbit(x: f32) -> bool {
    return sign_bit(x) != 0u;
}
// clamp(x, scalar 0, scalar 1): a NaN stays, and where the bounds cross the upper one wins.
fn f_clamp(x: f32) -> f32 {
    return f_minimum(f_maximum(x, scalar_f32(0u)), scalar_f32(1u));
}
fn f_logit(x: f32) -> f32 {
    return log_f32(x / (1.0 - x));
}
fn f_nan_to_num(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let not_nan = select(x, scalar_f32(0u), is_nan(x));
    let below_inf = select(not_nan, scalar_f32(1u), bits == 0x7f800000u);
    return select(below_inf, scalar_f32(2u), bits == 0xff800000u);
}
fn f_deg2rad(x: f32) -> f32 {
    return x * 0.0174532925199432958;
}
fn f_rad2deg(x: f32) -> f32 {
    return x * 57.2957795130823209;
}
