// Scalars of a call, held in four words: a 64-bit integer takes two, everything else one.
fn scalar_f32(k: u32) -> f32 {
    return bitcast<f32>(p.scalars[k]);
}
fn scalar_i32(k: u32) -> i32 {
    return bitcast<i32>(p.scalars[k]);
}
fn scalar_i64(k: u32) -> i64 {
    return (unsigned_i64(p.scalars[2u * k + 1u]) << 32u) | unsigned_i64(p.scalars[2u * k]);
}
