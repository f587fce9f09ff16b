@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + local;
    if (i >= p.rows * p.keep) {
        return;
    }
    let row = i / p.keep;
    let rank = i % p.keep;
    let place = bitcast<u32>(load_places(row * p.size + rank));
    $STORE
}
