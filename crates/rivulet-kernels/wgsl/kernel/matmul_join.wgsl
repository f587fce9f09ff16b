// The sums of the parts along k become the product: four columns of a row for an invocation.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = matrices(group.z);
    let row = group.y * $ROWSu + local / $QUADSu;
    let first_column = (group.x * $QUADSu + local % $QUADSu) * 4u;
    let first = base.y + row * p.strides.x + first_column;
    var sums = vec4<f32>();
    for (var part = 0u; part < p.parts; part++) {
        let at = first + part * p.edges.w;
        $ADD
    }
    store_four(base, row, first_column, sums);
}
