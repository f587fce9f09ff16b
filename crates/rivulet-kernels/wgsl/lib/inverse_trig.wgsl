// Inverse trigonometric functions. Polynomials and intervals: Cephes, asinf.c and atanf.c (S. Moshier). 3 ULP each,
// atan2 4 ULP.
const PI: f32 = 3.14159265358979324;
const PI_2: f32 = 1.57079632679489662;
const PI_4: f32 = 0.785398163397448310;

// asin(x) for 0 <= x <= 1/2.
fn asin_small(x: f32) -> f32 {
    let z = x * x;
    var y = 4.2163199048e-2;
    y = fma(y, z, 2.4181311049e-2);
    y = fma(y, z, 4.5470025998e-2);
    y = fma(y, z, 7.4953002686e-2);
    y = fma(y, z, 1.6666752422e-1);
    return fma(y * z, x, x);
}
fn asin_f32(x: f32) -> f32 {
    let a = abs(x);
    if (!is_finite(x) || a > 1.0) {
        return nan_f32();
    }
    var y = 0.0;
    if (a > 0.5) {
        y = PI_2 - 2.0 * asin_small(sqrt(0.5 * (1.0 - a)));
    } else {
        y = asin_small(a);
    }
    return with_sign(y, x);
}
fn acos_f32(x: f32) -> f32 {
    let a = abs(x);
    if (!is_finite(x) || a > 1.0) {
        return nan_f32();
    }
    if (a > 0.5) {
        let y = 2.0 * asin_small(sqrt(0.5 * (1.0 - a)));
        return select(y, PI - y, x < 0.0);
    }
    let y = asin_small(a);
    return select(PI_2 - y, PI_2 + y, x < 0.0);
}
// atan(x) for x >= 0 or infinite.
fn atan_positive(x: f32) -> f32 {
    var base = 0.0;
    var t = x;
    if (x > 2.414213562373095) {
        base = PI_2;
        t = select(-1.0 / x, 0.0, is_inf(x));
    } else if (x > 0.4142135623730950) {
        base = PI_4;
        t = (x - 1.0) / (x + 1.0);
    }
    let z = t * t;
    var y = 8.05374449538e-2;
    y = fma(y, z, -1.38776856032e-1);
    y = fma(y, z, 1.99777106478e-1);
    y = fma(y, z, -3.33329491539e-1);
    return base + fma(y * z, t, t);
}
fn atan_f32(x: f32) -> f32 {
    return keep_nan(x, with_sign(atan_positive(abs(x)), x));
}
fn atan2_f32(y: f32, x: f32) -> f32 {
    if (is_nan(x) || is_nan(y)) {
        return nan_f32();
    }
    let left = sign_bit(x) != 0u;
    var angle = 0.0;
    if (is_zero(y)) {
        angle = select(0.0, PI, left);
    } else if (is_zero(x)) {
        angle = PI_2;
    } else if (is_inf(x)) {
        if (is_inf(y)) {
            angle = select(PI_4, 3.0 * PI_4, left);
        } else {
            angle = select(0.0, PI, left);
        }
    } else if (is_inf(y)) {
        angle = PI_2;
    } else {
        // Scaled, so that the quotient of two large or two small numbers neither overflows nor loses bits.
        let down = select(1.0, 0.0009765625, max(abs(x), abs(y)) > 1e30);
        let scale = select(down, 16777216.0, max(abs(x), abs(y)) < 1e-30);
        angle = atan_positive(abs(y * scale) / abs(x * scale));
        angle = select(angle, PI - angle, left);
    }
    return with_sign(angle, y);
}
