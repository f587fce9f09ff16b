// $THREADS invocations make a row; $ROWS rows share a workgroup.
var<workgroup> parts: array<$A, 256>;
var<private> at: vec4<u32>;
// First elements of this invocation's row: output, input, second input.
var<private> base: vec4<u32>;
var<private> lane: u32;
var<private> slot: u32;
var<private> stat: vec2<f32>;
var<private> row: u32;

$OPERATION
fn locate(e: u32) {
    at = base + e * p.inner;
}
fn element(e: u32) -> $A {
    return row_element(e);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    lane = local % $THREADSu;
    slot = local - lane;
    let wanted = (group.y * groups.x + group.x) * $ROWSu + local / $THREADSu;
    // Rows past the last one are made again rather than skipped: barriers need every invocation.
    row = min(wanted, p.rows - 1u);
    let first = row / p.inner * (p.size * p.inner) + row % p.inner;
    base = p.offsets + first;
    statistics();
    if (wanted < p.rows) {
        let units = units_out(base.x, p.size);
        for (var unit = lane; unit < units; unit += $THREADSu) {
            put_out(unit, base.x, p.size);
        }
        if (lane == 0u) {
            finish_row();
        }
    }
}
