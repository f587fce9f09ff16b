@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = (group.y * groups.x + group.x) * 256u + local;
    if (unit < units_out(p.offsets.x, p.count)) {
        put_out(unit, p.offsets.x, p.count);
    }
}
