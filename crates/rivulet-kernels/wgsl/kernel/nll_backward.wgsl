var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
fn element(e: u32) -> f32 {
    let plane = p.classes * p.inner;
    let row = e / plane * p.inner + e % p.inner;
    let target_class = target_of(row);
    if (target_class == p.ignored || target_class != i32(e % plane / p.inner)) {
        return 0.0;
    }
    return -weight_of(target_class) * $GRADIENT;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = (group.y * groups.x + group.x) * 256u + local;
    let count = p.rows * p.classes;
    if (unit < units_out(p.offsets.x, count)) {
        put_out(unit, p.offsets.x, count);
    }
}
