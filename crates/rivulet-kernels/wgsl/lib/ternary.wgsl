// Ops of three tensors.
fn f_where(c: f32, a: f32, b: f32) -> f32 {
    return select(a, b, is_zero(c));
}
fn i_where(c: $C, a: $C, b: $C) -> $C {
    return select(b, a, c != $C(0));
}
// Scalar 1: value.
fn f_addcmul(a: f32, b: f32, c: f32) -> f32 {
    return a + scalar_f32(1u) * b * c;
}
fn i_addcmul(a: $C, b: $C, c: $C) -> $C {
    return a + scalar_$C(1u) * b * c;
}
fn f_addcdiv(a: f32, b: f32, c: f32) -> f32 {
    return a + scalar_f32(1u) * (b / c);
}
fn t_lerp(a: f32, b: f32, weight: f32) -> f32 {
    let near = a + weight * (b - a);
    let far = b - (b - a) * (1.0 - weight);
    return select(far, near, abs(weight) < 0.5);
}
fn f_lerp(a: f32, b: f32, c: f32) -> f32 {
    return t_lerp(a, b, c);
}
fn f_clamp_tensors(a: f32, b: f32, c: f32) -> f32 {
    return f_minimum(f_maximum(a, b), c);
}
fn i_clamp_tensors(a: $C, b: $C, c: $C) -> $C {
    return min(max(a, b), c);
}
// Scalars 1 and 2: beta, alpha.
fn f_addr(a: f32, b: f32, c: f32) -> f32 {
    let product = scalar_f32(2u) * b * c;
    return select(scalar_f32(1u) * a + product, product, is_zero(scalar_f32(1u)));
}
