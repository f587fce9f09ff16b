@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = (group.y * groups.x + group.x) * 256u + local;
    if (row < p.rows) {
        let target_class = target_of(row);
        store_out(p.offsets.x + row, loss_of(row, target_class, weight_of(target_class)));
    }
}
