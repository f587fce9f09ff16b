// Hyperbolic functions and their inverses. Polynomials: Cephes, sinhf.c, tanhf.c, asinhf.c, acoshf.c, atanhf.c
// (S. Moshier). 4 ULP each.
fn tanh_f32(x: f32) -> f32 {
    let a = abs(x);
    var y = 1.0;
    if (a < 0.625) {
        let z = x * x;
        y = -5.70498872745e-3;
        y = fma(y, z, 2.06390887954e-2);
        y = fma(y, z, -5.37397155531e-2);
        y = fma(y, z, 1.33314422036e-1);
        y = fma(y, z, -3.33332819422e-1);
        y = fma(y * z, a, a);
    } else if (a < 10.0) {
        y = 1.0 - 2.0 / (exp_f32(2.0 * a) + 1.0);
    }
    return keep_nan(x, with_sign(y, x));
}
fn sinh_f32(x: f32) -> f32 {
    let a = abs(x);
    var y = 0.0;
    if (a < 1.0) {
        let z = x * x;
        y = fma(fma(2.03721912945e-4, z, 8.33028376239e-3), z, 1.66667160211e-1);
        y = fma(y * z, a, a);
    } else if (a < 88.0) {
        let e = exp_f32(a);
        y = 0.5 * e - 0.5 / e;
    } else {
        // e^a overflows before sinh does.
        let e = exp_f32(0.5 * a);
        y = (0.5 * e) * e;
    }
    return keep_nan(x, with_sign(y, x));
}
fn cosh_f32(x: f32) -> f32 {
    let a = abs(x);
    if (a < 88.0) {
        let e = exp_f32(a);
        return 0.5 * e + 0.5 / e;
    }
    let e = exp_f32(0.5 * a);
    return keep_nan(x, (0.5 * e) * e);
}
fn asinh_f32(x: f32) -> f32 {
    let a = abs(x);
    var y = 0.0;
    if (a < 0.5) {
        let z = x * x;
        y = 2.0122003309e-2;
        y = fma(y, z, -4.2699340972e-2);
        y = fma(y, z, 7.4847586088e-2);
        y = fma(y, z, -1.6666288134e-1);
        y = fma(y * z, a, a);
    } else if (a < 1500.0) {
        y = log_f32(a + sqrt(a * a + 1.0));
    } else {
        y = log_f32(a) + 0.693147180559945309;
    }
    return keep_nan(x, with_sign(y, x));
}
fn acosh_f32(x: f32) -> f32 {
    if (is_nan(x) || x < 1.0) {
        return nan_f32();
    }
    if (x > 1500.0) {
        return log_f32(x) + 0.693147180559945309;
    }
    let z = x - 1.0;
    if (z < 0.5) {
        var y = 1.7596881071e-3;
        y = fma(y, z, -7.5272886713e-3);
        y = fma(y, z, 2.6454905019e-2);
        y = fma(y, z, -1.1784741703e-1);
        y = fma(y, z, 1.4142135263);
        return y * sqrt(z);
    }
    return log_f32(x + sqrt(z * (x + 1.0)));
}
fn atanh_f32(x: f32) -> f32 {
    let a = abs(x);
    if (is_nan(x) || a > 1.0) {
        return nan_f32();
    }
    if (a == 1.0) {
        return with_sign(inf_f32(), x);
    }
    if (a < 0.5) {
        let z = x * x;
        var y = 1.81740078349e-1;
        y = fma(y, z, 8.24370301058e-2);
        y = fma(y, z, 1.46691431730e-1);
        y = fma(y, z, 1.99782164500e-1);
        y = fma(y, z, 3.33337300303e-1);
        return fma(y * z, x, x);
    }
    return with_sign(0.5 * log_f32((1.0 + a) / (1.0 - a)), x);
}
