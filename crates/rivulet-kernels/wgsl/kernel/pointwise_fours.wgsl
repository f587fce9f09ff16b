// As pointwise.wgsl, for dense operands that are read and written four elements at a time.
@compute @workgroup_size($GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let units = p.count / 4u;
    var unit = (group.y * groups.x + group.x) * ($GROUPu * $ITEMSu) + local;
    for (var item = 0u; item < $ITEMSu; item++) {
        if (unit < units) {
            let e = unit * 4u;
$LOADS
            store_four_out(p.offsets.x + e, vec4<$OUT>($VALUES));
        }
        unit += $GROUPu;
    }
}
