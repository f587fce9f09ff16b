// Element of the output that is being made.
var<private> at: vec4<u32>;

fn locate(e: u32) {
    at.x = p.offsets[0].x + e;
}
fn element(e: u32) -> $OUT {
$STEPS}

@compute @workgroup_size($GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let units = units_out(p.offsets[0].x, p.count);
    var unit = (group.y * groups.x + group.x) * ($GROUPu * $ITEMSu) + local;
    for (var item = 0u; item < $ITEMSu; item++) {
        if (unit < units) {
            put_out(unit, p.offsets[0].x, p.count);
        }
        unit += $GROUPu;
    }
}
