@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let e = group.x * 256u + local;
    let row = group.y;
    if (e < p.words && row < p.rows) {
        store_out(p.out + row * p.words + e, load_row(p.first[row / 4u][row % 4u], e));
    }
}
