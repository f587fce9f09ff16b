// Derivatives that PyTorch's formulas name: a is the gradient, b the input (or the output, where the op says so).
// Scalars follow from 1, since 0 is an operand's place.
fn f_relu_backward(a: f32, b: f32) -> f32 {
    return select(a, 0.0, b <= 0.0);
}
// Scalar 1: threshold.
fn f_threshold_backward(a: f32, b: f32) -> f32 {
    return select(a, 0.0, b <= scalar_f32(1u));
}
// b is the output.
fn f_sigmoid_backward(a: f32, b: f32) -> f32 {
    return a * (1.0 - b) * b;
}
// b is the output.
fn f_tanh_backward(a: f32, b: f32) -> f32 {
    return a * (1.0 - b * b);
}
fn f_silu_backward(a: f32, b: f32) -> f32 {
    let s = f_sigmoid(b);
    return a * s * (1.0 + b * (1.0 - s));
}
fn f_gelu_backward(a: f32, b: f32) -> f32 {
    let cdf = 0.5 * (1.0 + erf_f32(b * 0.707106781186547524));
    let pdf = 0.398942280401432678 * exp_f32(-0.5 * b * b);
    return a * (cdf + b * pdf);
}
fn f_gelu_tanh_backward(a: f32, b: f32) -> f32 {
    let squared = b * b;
    let inner = 0.797884560802865356 * (b + 0.044715 * (squared * b));
    let t = tanh_f32(inner);
    let slope = 0.797884560802865356 * (1.0 + 0.134145 * squared);
    return a * (0.5 * (1.0 + t) + 0.5 * b * (1.0 - t * t) * slope);
}
// Scalar 1: negative slope.
fn f_leaky_relu_backward(a: f32, b: f32) -> f32 {
    return select(a * scalar_f32(1u), a, b > 0.0);
}
// Scalars 1 and 2: min, max.
fn f_hardtanh_backward(a: f32, b: f32) -> f32 {
    return select(a, 0.0, b <= scalar_f32(1u) || b >= scalar_f32(2u));
}
fn f_hardswish_backward(a: f32, b: f32) -> f32 {
    let inner = select(a * (b / 3.0 + 0.5), a, b >= 3.0);
    return select(inner, 0.0, b <= -3.0);
}
fn f_hardsigmoid_backward(a: f32, b: f32) -> f32 {
    return select(0.0, a / 6.0, b > -3.0 && b < 3.0);
}
fn f_mish_backward(a: f32, b: f32) -> f32 {
    let t = tanh_f32(select(log1p_f32(exp_f32(b)), b, b > 20.0));
    return a * (t + b * f_sigmoid(b) * (1.0 - t * t));
}
// Scalars 1 and 2: beta, threshold.
fn f_softplus_backward(a: f32, b: f32) -> f32 {
    let scaled = b * scalar_f32(1u);
    return select(a * f_sigmoid(scaled), a, scaled > scalar_f32(2u));
}
// Scalars 1 to 3: alpha, scale, input scale.
fn f_elu_backward(a: f32, b: f32) -> f32 {
    let inner = scalar_f32(3u);
    let negative = a * inner * (scalar_f32(1u) * scalar_f32(2u)) * exp_f32(b * inner);
    return select(negative, a * scalar_f32(2u), b > 0.0);
}
// b is the output; scalars as above.
fn f_elu_backward_result(a: f32, b: f32) -> f32 {
    let negative = a * scalar_f32(3u) * (b + scalar_f32(1u) * scalar_f32(2u));
    return select(negative, a * scalar_f32(2u), b > 0.0);
}
// Of hardshrink and softshrink. Scalar 1: lambda.
fn f_shrink_backward(a: f32, b: f32) -> f32 {
    return select(a, 0.0, abs(b) <= scalar_f32(1u));
}
// Scalar 1: eps; below 0 there is none, and outside [0, 1] the derivative is a NaN.
fn f_logit_backward(a: f32, b: f32) -> f32 {
    let eps = scalar_f32(1u);
    let low = max(eps, 0.0);
    let outside = select(0.0, nan_f32(), eps < 0.0);
    return select(a / (b * (1.0 - b)), outside, b < low || b > 1.0 - low);
}
fn f_log_sigmoid_backward(a: f32, b: f32) -> f32 {
    let z = exp_f32(-abs(b));
    let share = z / (1.0 + z);
    return a * select(share, 1.0 - share, b < 0.0);
}
// Of the weight: b is the input. That of the input is `prelu_backward`.
fn f_prelu_weight_backward(a: f32, b: f32) -> f32 {
    return select(a * b, 0.0, b > 0.0);
}
// a is the gradient, b the input, c the weight.
fn f_prelu_backward(a: f32, b: f32, c: f32) -> f32 {
    return select(a * c, a, b > 0.0);
}
// Of the second half: a is the gradient, b the first half, c the second. That of the first is `glu` of a and c.
fn f_glu_backward(a: f32, b: f32, c: f32) -> f32 {
    let s = f_sigmoid(c);
    return (1.0 - s) * s * a * b;
}
// Losses: a is the gradient, b the input, c the target; scalar 1 a factor.
fn f_mse_backward(a: f32, b: f32, c: f32) -> f32 {
    return scalar_f32(1u) * (b - c) * a;
}
// Scalar 2: beta.
fn f_smooth_l1_backward(a: f32, b: f32, c: f32) -> f32 {
    let beta = scalar_f32(2u);
    let d = b - c;
    let outer = select(scalar_f32(1u) * a, -scalar_f32(1u) * a, d <= -beta);
    return select(scalar_f32(1u) * d * a / beta, outer, d <= -beta || d >= beta);
}
// Scalar 2: delta.
fn f_huber_backward(a: f32, b: f32, c: f32) -> f32 {
    let delta = scalar_f32(2u);
    let d = b - c;
    return scalar_f32(1u) * a * min(max(d, -delta), delta);
}
