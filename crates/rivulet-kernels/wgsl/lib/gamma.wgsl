// The logarithm of gamma (FreeBSD, e_lgammaf_r.c), its derivatives and the incomplete gamma functions.

// sin(pi x), from the exact remainder of x by 2.
fn sin_pi(x: f32) -> f32 {
    let turn = x - 2.0 * floor(0.5 * x);
    let quarter = u32(turn * 4.0 + 1.0) / 2u;
    let r = (turn - f32(quarter) * 0.5) * 3.14159265358979324;
    return sin_of(Reduced(r, quarter));
}
// pi / tan(pi x) for -1 < x < 1, from the nearer of 0 and 1/2.
fn pi_cot_pi(x: f32) -> f32 {
    let a = abs(x);
    let r = select(a, 1.0 - a, a > 0.5);
    let value = select(3.14159265358979324 / tan_f32(3.14159265358979324 * r), 3.14159265358979324 * tan_f32(3.14159265358979324 * (0.5 - r)), r > 0.25);
    return select(value, -value, (x < 0.0) != (a > 0.5));
}
// Near 1, near the minimum at 1.46, and near 2.
fn lgamma_near_two(y: f32) -> f32 {
    let z = y * y;
    let p1 = 7.7215664089e-2 + z * (6.7352302372e-2 + z * (7.3855509982e-3 + z * (1.1927076848e-3 + z * (2.2086278477e-4 + z * 2.5214456400e-5))));
    let p2 = z * (3.2246702909e-1 + z * (2.0580807701e-2 + z * (2.8905137442e-3 + z * (5.1006977446e-4 + z * (1.0801156895e-4 + z * 4.4864096708e-5)))));
    return y * p1 + p2 - 0.5 * y;
}
fn lgamma_near_minimum(y: f32) -> f32 {
    let z = y * y;
    let w = z * y;
    let p1 = 4.8383611441e-1 + w * (-3.2788541168e-2 + w * (6.1005386524e-3 + w * (-1.4034647029e-3 + w * 3.1563205994e-4)));
    let p2 = -1.4758771658e-1 + w * (1.7970675603e-2 + w * (-3.6845202558e-3 + w * (8.8108185446e-4 + w * -3.1275415677e-4)));
    let p3 = 6.4624942839e-2 + w * (-1.0314224288e-2 + w * (2.2596477065e-3 + w * (-5.3859531181e-4 + w * 3.3552918467e-4)));
    return -1.2148628384e-1 + (z * p1 - (6.6971006518e-9 - w * (p2 + y * p3)));
}
fn lgamma_near_one(y: f32) -> f32 {
    let p1 = y * (-7.7215664089e-2 + y * (6.3282704353e-1 + y * (1.4549225569 + y * (9.7771751881e-1 + y * (2.2896373272e-1 + y * 1.3381091878e-2)))));
    let p2 = 1.0 + y * (2.4559779167 + y * (2.1284897327 + y * (7.6928514242e-1 + y * (1.0422264785e-1 + y * 3.2170924824e-3))));
    return p1 / p2 - 0.5 * y;
}
fn lgamma_below_two(x: f32) -> f32 {
    if (x <= 0.8999999762) {
        let value = -log_f32(x);
        // What adding 1 would round away counts.
        if (x < 0.2316) {
            return value + lgamma_near_one(x);
        }
        if (x < 0.7316) {
            return value + lgamma_near_minimum(x - 0.46163213253);
        }
        return value + lgamma_near_two(1.0 - x);
    }
    if (x >= 1.7316) {
        return lgamma_near_two(2.0 - x);
    }
    if (x >= 1.23) {
        return lgamma_near_minimum(x - 1.4616321325);
    }
    return lgamma_near_one(x - 1.0);
}
fn lgamma_below_eight(x: f32) -> f32 {
    let whole = floor(x);
    let y = x - whole;
    let p = y * (-7.7215664089e-2 + y * (2.1498242021e-1 + y * (3.2577878237e-1 + y * (1.4635047317e-1 + y * (2.6642270386e-2 + y * (1.8402845599e-3 + y * 3.1947532989e-5))))));
    let q = 1.0 + y * (1.3920053244 + y * (7.2193557024e-1 + y * (1.7193385959e-1 + y * (1.8645919859e-2 + y * (7.7794247773e-4 + y * 7.3266842264e-6)))));
    var product = 1.0;
    for (var k = 2.0; k < whole; k += 1.0) {
        product *= y + k;
    }
    return 0.5 * y + p / q + log_f32(product);
}
fn lgamma_positive(x: f32) -> f32 {
    if (x == 1.0 || x == 2.0) {
        return 0.0;
    }
    if (x < 2.0) {
        return lgamma_below_two(x);
    }
    if (x < 8.0) {
        return lgamma_below_eight(x);
    }
    if (x >= 2.882303761517e17) {
        return x * (log_f32(x) - 1.0);
    }
    let z = 1.0 / x;
    let y = z * z;
    let w = 4.1893854737e-1 + z * (8.3333335817e-2 + y * (-2.7777778450e-3 + y * (7.9365057172e-4 + y * (-5.9518753551e-4 + y * 8.3633989561e-4))));
    return (x - 0.5) * (log_f32(x) - 1.0) + w;
}
// 6 ULP for positive x; for negative x 1e-6 of the larger of the value and 1, since it has zeros there.
fn lgamma_f32(x: f32) -> f32 {
    if (is_nan(x)) {
        return x;
    }
    if (is_inf(x) || is_zero(x)) {
        return inf_f32();
    }
    let a = abs(x);
    if (a < 4.76837158203125e-7) {
        return -log_f32(a);
    }
    if (x > 0.0) {
        return lgamma_positive(x);
    }
    let s = abs(sin_pi(a));
    if (floor(a) == a) {
        return inf_f32();
    }
    return log_f32(3.14159265358979324 / (s * a)) - lgamma_positive(a);
}
fn f_lgamma(x: f32) -> f32 {
    return lgamma_f32(x);
}
// Recurrence up to 10, then the asymptotic series, as PyTorch's calc_digamma.
fn digamma_f32(argument: f32) -> f32 {
    if (is_zero(argument)) {
        return with_sign(inf_f32(), -argument);
    }
    if (!is_finite(argument)) {
        return select(nan_f32(), argument, bitcast<u32>(argument) == 0x7f800000u);
    }
    var x = argument;
    var value = 0.0;
    if (x < 0.0) {
        if (trunc(x) == x) {
            return nan_f32();
        }
        value = -pi_cot_pi(x - trunc(x));
        x = 1.0 - x;
    }
    var steps = 0.0;
    while (x < 10.0) {
        steps += 1.0 / x;
        x += 1.0;
    }
    let z = 1.0 / (x * x);
    let series = z * (8.33333333333e-2 + z * (-8.33333333333e-3 + z * (3.96825396825e-3 + z * (-4.16666666667e-3 + z * 7.57575757576e-3))));
    return value + ((log_f32(x) - 0.5 / x - series) - steps);
}
fn f_digamma(x: f32) -> f32 {
    return digamma_f32(x);
}
fn trigamma_f32(argument: f32) -> f32 {
    var x = argument;
    var value = 0.0;
    var sign = 1.0;
    if (x < 0.5) {
        let s = sin_pi(x);
        sign = -1.0;
        value = -9.86960440108935862 / (s * s);
        x = 1.0 - x;
    }
    for (var k = 0u; k < 6u; k++) {
        value += 1.0 / (x * x);
        x += 1.0;
    }
    let z = 1.0 / (x * x);
    value += (1.0 + 1.0 / (2.0 * x) + z * (1.66666666667e-1 - z * (3.33333333333e-2 - z * 2.38095238095e-2))) / x;
    return sign * value;
}
// Hurwitz's zeta function by Euler and Maclaurin's formula (Cephes, zeta.c).
fn zeta_f32(x: f32, q: f32) -> f32 {
    if (x == 1.0) {
        return inf_f32();
    }
    if (is_nan(x) || is_nan(q) || x < 1.0) {
        return nan_f32();
    }
    if (q <= 0.0) {
        if (q == floor(q)) {
            return inf_f32();
        }
        if (x != floor(x)) {
            return nan_f32();
        }
    }
    var sum = pow_f32(q, -x);
    var a = q;
    var b = 0.0;
    for (var k = 0u; k < 9u || a <= 9.0; k++) {
        a += 1.0;
        b = pow_f32(a, -x);
        sum += b;
        if (abs(b) < 5.9604645e-8 * abs(sum)) {
            return sum;
        }
    }
    sum += b * a / (x - 1.0) - 0.5 * b;
    var table = array<f32, 6>(12.0, -720.0, 30240.0, -1209600.0, 47900160.0, -1.8924375803183791606e9);
    var factor = 1.0;
    var k = 0.0;
    for (var i = 0u; i < 6u; i++) {
        factor *= x + k;
        b = b / a;
        let term = factor * b / table[i];
        sum += term;
        if (abs(term) < 5.9604645e-8 * abs(sum)) {
            return sum;
        }
        k += 1.0;
        factor *= x + k;
        b = b / a;
        k += 1.0;
    }
    return sum;
}
fn f_zeta(a: f32, b: f32) -> f32 {
    return zeta_f32(a, b);
}
// Scalar: the order.
fn f_polygamma(x: f32) -> f32 {
    let n = scalar_f32(0u);
    if (n == 0.0) {
        return digamma_f32(x);
    }
    if (n == 1.0) {
        return trigamma_f32(x);
    }
    var factorial = 1.0;
    for (var k = 2.0; k <= min(n, 35.0); k += 1.0) {
        factorial *= k;
    }
    let odd = n - 2.0 * floor(0.5 * n) == 1.0;
    return select(-factorial, factorial, odd) * zeta_f32(n + 1.0, x);
}
// x^a e^-x / gamma(a + 1)
fn igamma_factor(a: f32, x: f32) -> f32 {
    return exp_f32(a * log_f32(x) - x - lgamma_f32(a + 1.0));
}
// The lower one by its power series, the upper one by its continued fraction (W. Lentz); each where it converges fast.
fn igamma_series(a: f32, x: f32) -> f32 {
    var term = 1.0;
    var sum = 1.0;
    for (var k = 1.0; k < 2000.0 && term > 2.9802322e-8 * sum; k += 1.0) {
        term *= x / (a + k);
        sum += term;
    }
    return igamma_factor(a, x) * sum;
}
fn igamma_fraction(a: f32, x: f32) -> f32 {
    var b = x + 1.0 - a;
    var c = 1e30;
    var d = 1.0 / b;
    var h = d;
    for (var k = 1.0; k < 2000.0; k += 1.0) {
        let an = k * (a - k);
        b += 2.0;
        d = an * d + b;
        d = 1.0 / select(d, 1e-30, abs(d) < 1e-30);
        c = b + an / c;
        c = select(c, 1e-30, abs(c) < 1e-30);
        h *= d * c;
        if (abs(d * c - 1.0) < 5.9604645e-8) {
            break;
        }
    }
    return igamma_factor(a, x) * a * h;
}
// The lower regularised one, or its complement.
fn igamma_part(a: f32, x: f32, upper_part: bool) -> f32 {
    if (is_nan(a) || is_nan(x) || a < 0.0 || x < 0.0 || (is_inf(a) && is_inf(x)) || (is_zero(a) && is_zero(x))) {
        return nan_f32();
    }
    var lower = 0.0;
    if (is_zero(x) || is_inf(a)) {
        lower = 0.0;
    } else if (is_zero(a) || is_inf(x)) {
        lower = 1.0;
    } else if (x > 1.0 && x > a) {
        let value = igamma_fraction(a, x);
        return select(1.0 - value, value, upper_part);
    } else {
        lower = igamma_series(a, x);
    }
    return select(lower, 1.0 - lower, upper_part);
}
fn f_igamma(a: f32, b: f32) -> f32 {
    return igamma_part(a, b, false);
}
fn f_igammac(a: f32, b: f32) -> f32 {
    return igamma_part(a, b, true);
}
