// Exponentials. Bounds are in units in the last place (ULP) over the whole range, results below 2^-126 apart, which a
// device may flush to zero. Coefficients of the polynomials: Cephes, expf.c (S. Moshier).

// e^r - 1 for |r| <= ln(2)/2.
fn expm1_reduced(r: f32) -> f32 {
    var y = 1.9875691500e-4;
    y = fma(y, r, 1.3981999507e-3);
    y = fma(y, r, 8.3334519073e-3);
    y = fma(y, r, 4.1665795894e-2);
    y = fma(y, r, 1.6666665459e-1);
    y = fma(y, r, 5.0000001201e-1);
    return fma(y * r, r, r);
}
// x - n ln(2), for whole n. The first product is exact (ln(2)'s upper part has 10 bits), fused or not.
fn exp_remainder(x: f32, n: f32) -> f32 {
    return (x - n * 0.693359375) + n * 2.12194440e-4;
}
// 2 ULP.
fn exp_f32(x: f32) -> f32 {
    let limited = clamp(x, -104.0, 89.0);
    let n = round(limited * 1.44269504088896341);
    let y = 1.0 + expm1_reduced(exp_remainder(limited, n));
    return keep_nan(x, select(scale_pow2(y, i32(n)), inf_f32(), x > 88.7228391));
}
// For sums and results of 16 bits: of x <= 0 with a relative error of 3e-6, 0 below e^-87. Terms of the series.
fn exp_short(x: f32) -> f32 {
    let limited = max(x, -87.0);
    let n = round(limited * 1.44269504088896341);
    let r = fma(n, -0.693147180559945309, limited);
    var y = fma(8.333333333e-3, r, 4.166666667e-2);
    y = fma(y, r, 1.666666667e-1);
    y = fma(y, r, 0.5);
    y = fma(y, r, 1.0);
    y = fma(y, r, 1.0);
    let scaled = bitcast<f32>(bitcast<u32>(y) + bitcast<u32>(i32(n) << 23u));
    return keep_nan(x, select(scaled, 0.0, x < -87.0));
}
// 2 ULP.
fn exp2_f32(x: f32) -> f32 {
    let limited = clamp(x, -151.0, 129.0);
    let n = round(limited);
    let y = 1.0 + expm1_reduced((limited - n) * 0.693147180559945309);
    return keep_nan(x, select(scale_pow2(y, i32(n)), inf_f32(), x >= 128.0));
}
// 3 ULP.
fn expm1_f32(x: f32) -> f32 {
    let limited = clamp(x, -18.0, 89.0);
    let n = round(limited * 1.44269504088896341);
    let y = expm1_reduced(exp_remainder(limited, n));
    // Half the scale, so that it is finite for every n; twice the sum at the end.
    let half_scale = pow2i(i32(n) - 1);
    let sum = (half_scale * y + (half_scale - 0.5)) * 2.0;
    let value = select(select(sum, y, n == 0.0), inf_f32(), x > 88.7228391);
    return keep_nan(x, select(value, x, is_zero(x)));
}
