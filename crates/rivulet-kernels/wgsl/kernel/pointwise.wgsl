// Elements of the operands that element `e` of the output is made from: output, then inputs in binding order.
var<private> at: vec4<u32>;

$LOCATE
fn element(e: u32) -> $OUT {
    return $CALL;
}

@compute @workgroup_size($GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let units = units_out(p.offsets.x, p.count);
    // An invocation's units are a group's width apart: neighbours touch neighbouring words, and each has several
    // loads under way.
    var unit = (group.y * groups.x + group.x) * ($GROUPu * $ITEMSu) + local;
    for (var item = 0u; item < $ITEMSu; item++) {
        if (unit < units) {
            put_out(unit, p.offsets.x, p.count);
        }
        unit += $GROUPu;
    }
}
