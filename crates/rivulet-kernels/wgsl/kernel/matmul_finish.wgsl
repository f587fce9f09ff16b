// First elements of this group's matrices: output, a, b, bias.
fn matrices(z: u32) -> vec4<u32> {
    return p.offsets + z / p.batch * p.outer_strides + z % p.batch * p.batch_strides;
}
fn finished(base: vec4<u32>, row: u32, column: u32, sum: f32) -> f32 {
    let value = $SUM;
    return $ACTIVATION;
}
