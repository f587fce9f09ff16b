$SHARE
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let o = $RESULT_INDEX;
    if (o >= p.kept * p.chunks) {
        return;
    }
