fn store_four(base: vec4<u32>, row: u32, column: u32, sums: vec4<f32>) {
    if (row >= p.m) {
        return;
    }
    let to = base.x + row * p.edges.x + column;
$STORE
}
