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
