// Modified Bessel functions of the first kind, scaled by e^-|x|: Chebyshev interpolants in |x| up to 4 and in 1/|x|
// beyond, whose relative error is below 2e-8; with rounding 8 ULP. Unscaled, the exponential's error comes on top.
fn i0_small(t: f32) -> f32 {
    var b0 = -1.12097187e-08;
    var b1 = 0.0;
    var b2 = 0.0;
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 7.95332394e-08 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -5.16706514e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 3.10814418e-06 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -1.72167869e-05 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 8.7252745e-05 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.000401595176 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.00166491724 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.00616107527 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.0201619986 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.057896045 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.145828292 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.332022579 - b2);
    return fma(t, b0, 0.435755311 - b1);
}
fn i0_large(t: f32) -> f32 {
    var b0 = 2.22025626e-08;
    var b1 = 0.0;
    var b2 = 0.0;
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 4.40630576e-08 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -1.06261747e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -6.35399393e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -7.28642944e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 4.95562624e-06 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 4.48684007e-05 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.000393998861 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.00748673034 - b2);
    return fma(t, b0, 0.406074701 - b1);
}
fn i1_small(t: f32) -> f32 {
    var b0 = -1.8013397e-09;
    var b1 = 0.0;
    var b2 = 0.0;
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 1.37843445e-08 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -9.73426681e-08 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 6.40622646e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -3.91071011e-06 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 2.20218883e-05 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.000113666356 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.000533795485 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.00226095964 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.0085466318 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.028447634 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 0.0818201688 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.196829875 - b2);
    return fma(t, b0, 0.181420582 - b1);
}
fn i1_large(t: f32) -> f32 {
    var b0 = 3.90552637e-09;
    var b1 = 0.0;
    var b2 = 0.0;
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -2.12313855e-08 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -4.49961347e-08 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 1.29309141e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 6.99713627e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, 6.56730859e-07 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -6.46664202e-06 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -5.81137466e-05 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.000595846695 - b2);
    b2 = b1;
    b1 = b0;
    b0 = fma(2.0 * t, b1, -0.0206629541 - b2);
    return fma(t, b0, 0.378823635 - b1);
}
fn i0e_f32(x: f32) -> f32 {
    let a = abs(x);
    if (a <= 4.0) {
        return i0_small(a * 0.5 - 1.0);
    }
    return keep_nan(x, i0_large(8.0 / a - 1.0) / sqrt(a));
}
fn i1e_f32(x: f32) -> f32 {
    let a = abs(x);
    if (a <= 4.0) {
        return x * i1_small(a * 0.5 - 1.0);
    }
    return keep_nan(x, with_sign(i1_large(8.0 / a - 1.0) / sqrt(a), x));
}
fn f_i0(x: f32) -> f32 {
    return keep_nan(x, select(exp_f32(abs(x)) * i0e_f32(x), inf_f32(), is_inf(x)));
}
fn f_i0e(x: f32) -> f32 {
    return i0e_f32(x);
}
fn f_i1(x: f32) -> f32 {
    return keep_nan(x, select(exp_f32(abs(x)) * i1e_f32(x), x, is_inf(x)));
}
fn f_i1e(x: f32) -> f32 {
    return i1e_f32(x);
}
