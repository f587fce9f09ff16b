// Ops that make an element from its position `e` in the output, in row-major order.
fn f_fill(e: u32) -> f32 {
    return scalar_f32(0u);
}
fn i_fill(e: u32) -> $C {
    return scalar_$C(0u);
}
// Scalars: start, step.
fn f_arange(e: u32) -> f32 {
    return fma(f32(e), scalar_f32(1u), scalar_f32(0u));
}
fn i_arange(e: u32) -> $C {
    return scalar_$C(0u) + scalar_$C(1u) * $C(e);
}
// Scalars: start, end, step. From the nearer end, so that both ends are exact.
fn f_linspace(e: u32) -> f32 {
    let last = p.count - 1u;
    let low = fma(scalar_f32(2u), f32(e), scalar_f32(0u));
    let high = fma(-scalar_f32(2u), f32(last - e), scalar_f32(1u));
    return select(high, low, e < p.count / 2u || last == 0u);
}
// Extra words: columns, rows. Scalar 0, a signed word whatever is computed in: the diagonal.
fn above_diagonal(e: u32) -> i32 {
    let column = e % p.extra.x;
    let row = (e / p.extra.x) % p.extra.y;
    return bitcast<i32>(column) - bitcast<i32>(row) - bitcast<i32>(p.scalars.x);
}
fn f_tril(e: u32, x: f32) -> f32 {
    return select(0.0, x, above_diagonal(e) <= 0);
}
fn i_tril(e: u32, x: $C) -> $C {
    return select($C(0), x, above_diagonal(e) <= 0);
}
fn f_triu(e: u32, x: f32) -> f32 {
    return select(0.0, x, above_diagonal(e) >= 0);
}
fn i_triu(e: u32, x: $C) -> $C {
    return select($C(0), x, above_diagonal(e) >= 0);
}
fn f_eye(e: u32) -> f32 {
    return select(0.0, 1.0, above_diagonal(e) == 0);
}
fn i_eye(e: u32) -> $C {
    return select($C(0), $C(1), above_diagonal(e) == 0);
}
