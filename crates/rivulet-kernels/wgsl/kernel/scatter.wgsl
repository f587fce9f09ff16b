var<private> at: vec4<u32>;

$LOCATE
$CHANGE
@compute @workgroup_size($GROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = (group.y * groups.x + group.x) * $GROUPu + local;
    if (e >= p.count) {
        return;
    }
    locate(e);
    let index = wrapped_index(load_in0(at.y));
    if (index != 0xffffffffu) {
        change(at.x + index * p.extra.y, $VALUE);
    }
}
