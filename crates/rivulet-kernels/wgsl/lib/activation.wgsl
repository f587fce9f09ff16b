// Activations of torch.nn.functional. Scalars are in the order of PyTorch's arguments.
fn f_relu(x: f32) -> f32 {
    return keep_nan(x, max(x, 0.0));
}
fn f_relu6(x: f32) -> f32 {
    return keep_nan(x, min(max(x, 0.0), 6.0));
}
fn f_gelu(x: f32) -> f32 {
    return x * 0.5 * (1.0 + erf_f32(x * 0.707106781186547524));
}
fn f_gelu_tanh(x: f32) -> f32 {
    let inner = 0.797884560802865356 * (x + 0.044715 * (x * x * x));
    return 0.5 * x * (1.0 + tanh_f32(inner));
}
fn f_sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_f32(-x));
}
fn f_log_sigmoid(x: f32) -> f32 {
    return keep_nan(x, min(x, 0.0)) - log1p_f32(exp_f32(-abs(x)));
}
fn f_silu(x: f32) -> f32 {
    return x / (1.0 + exp_f32(-x));
}
// Scalars: beta, threshold.
fn f_softplus(x: f32) -> f32 {
    let scaled = x * scalar_f32(0u);
    return select(log1p_f32(exp_f32(scaled)) / scalar_f32(0u), x, scaled > scalar_f32(1u));
}
fn f_mish(x: f32) -> f32 {
    return x * tanh_f32(select(log1p_f32(exp_f32(x)), x, x > 20.0));
}
fn f_hardswish(x: f32) -> f32 {
    return x * f_relu6(x + 3.0) / 6.0;
}
fn f_hardsigmoid(x: f32) -> f32 {
    return f_relu6(x + 3.0) / 6.0;
}
// Scalars: min, max.
fn f_hardtanh(x: f32) -> f32 {
    return f_clamp(x);
}
// Scalar: negative slope.
fn f_leaky_relu(x: f32) -> f32 {
    return select(x * scalar_f32(0u), x, x > 0.0);
}
// Scalars: alpha, scale, input scale.
fn f_elu(x: f32) -> f32 {
    let negative = expm1_f32(x * scalar_f32(2u)) * scalar_f32(0u);
    return keep_nan(x, select(negative, x, x > 0.0) * scalar_f32(1u));
}
// Scalars: threshold, value.
fn f_threshold(x: f32) -> f32 {
    return keep_nan(x, select(x, scalar_f32(1u), x <= scalar_f32(0u)));
}
// Scalar: lambda.
fn f_hardshrink(x: f32) -> f32 {
    return keep_nan(x, select(x, 0.0, abs(x) <= scalar_f32(0u)));
}
fn f_softshrink(x: f32) -> f32 {
    let limit = scalar_f32(0u);
    let below = select(0.0, x + limit, x < -limit);
    return keep_nan(x, select(below, x - limit, x > limit));
}
fn f_softsign(x: f32) -> f32 {
    return x / (1.0 + abs(x));
}
fn f_selu(x: f32) -> f32 {
    let negative = expm1_f32(x) * 1.67326324235437728;
    return keep_nan(x, select(negative, x, x > 0.0) * 1.05070098735548049);
}
