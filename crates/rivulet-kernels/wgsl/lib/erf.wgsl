// The error function: N. Juffa's two-interval approximation, 2 ULP. Its complement: W. J. Cody's shape with the
// coefficients of Numerical Recipes' erfcc (relative error 1.2e-7), 8 ULP down to 2^-126.
fn erf_f32(x: f32) -> f32 {
    let t = abs(x);
    let s = x * x;
    if (t > 0.927734375) {
        var r = fma(-1.72853470e-5, t, 3.83197126e-4);
        let u = fma(-3.88396438e-3, t, 2.42546219e-2);
        r = fma(r, s, u);
        r = fma(r, t, -1.06777877e-1);
        r = fma(r, t, -6.34846687e-1);
        r = fma(r, t, -1.28717512e-1);
        r = fma(r, t, -t);
        // The polynomial turns back far out, where the result is 1.
        let y = select(1.0 - exp_f32(r), 1.0, t > 4.0);
        return keep_nan(x, with_sign(y, x));
    }
    var r = -5.96761703e-4;
    r = fma(r, s, 4.99119423e-3);
    r = fma(r, s, -2.67681349e-2);
    r = fma(r, s, 1.12819925e-1);
    r = fma(r, s, -3.76125336e-1);
    r = fma(r, s, 1.28379166e-1);
    return fma(r, x, x);
}
// log(erfc(z) e^(z^2) / t) of t = 1 / (1 + z / 2).
fn erfc_exponent(t: f32) -> f32 {
    var y = 0.17087277;
    y = fma(y, t, -0.82215223);
    y = fma(y, t, 1.48851587);
    y = fma(y, t, -1.13520398);
    y = fma(y, t, 0.27886807);
    y = fma(y, t, -0.18628806);
    y = fma(y, t, 0.09678418);
    y = fma(y, t, 0.37409196);
    y = fma(y, t, 1.00002368);
    y = fma(y, t, -1.26551223);
    return y;
}
fn erfc_f32(x: f32) -> f32 {
    let z = abs(x);
    if (z < 0.5) {
        return 1.0 - erf_f32(x);
    }
    let t = 1.0 / fma(0.5, z, 1.0);
    let y = erfc_exponent(t);
    // z^2 as an exact square and the rest, each under an exponential of its own.
    let whole = upper(z);
    let tail = t * exp_f32(-whole * whole) * exp_f32((whole - z) * (whole + z) + y);
    let value = select(tail, 0.0, z > 11.0);
    return keep_nan(x, select(value, 2.0 - value, x < 0.0));
}
