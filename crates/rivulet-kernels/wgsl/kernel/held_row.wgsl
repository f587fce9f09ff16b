// As row.wgsl, for rows that $THREADS invocations hold in registers: each element is read once, four at a time.
var<workgroup> parts: array<vec2<f32>, 256>;
var<workgroup> totals: array<vec2<f32>, 128>;
var<private> lane: u32;
var<private> slot: u32;

// Sums of all invocations of a row, known to each of them afterwards: $SHARES of them sum up a share each.
fn row_sums(value: vec2<f32>) -> vec2<f32> {
    parts[slot + lane] = value;
    workgroupBarrier();
    let first = slot / $THREADSu * $SHARESu;
    if (lane < $SHARESu) {
        var share = vec2<f32>();
        for (var i = lane; i < $THREADSu; i += $SHARESu) {
            share += parts[slot + i];
        }
        totals[first + lane] = share;
    }
    workgroupBarrier();
    var total = vec2<f32>();
    for (var i = 0u; i < $SHARESu; i++) {
        total += totals[first + i];
    }
    return total;
}
fn row_max(value: f32) -> f32 {
    parts[slot + lane].x = value;
    workgroupBarrier();
    let first = slot / $THREADSu * $SHARESu;
    if (lane < $SHARESu) {
        var share = value;
        for (var i = lane; i < $THREADSu; i += $SHARESu) {
            share = max(share, parts[slot + i].x);
        }
        totals[first + lane].x = share;
    }
    workgroupBarrier();
    var top = value;
    for (var i = 0u; i < $SHARESu; i++) {
        top = max(top, totals[first + i].x);
    }
    return top;
}
fn highest(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}
fn total(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
fn exponentials(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>($EXP(x.x), $EXP(x.y), $EXP(x.z), $EXP(x.w));
}
$TAIL
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
    let row = min(wanted, p.rows - 1u);
    let source = p.offsets.y + row * p.size;
    let to = p.offsets.x + row * p.size;
$LOAD
$STATISTICS
    if (wanted < p.rows) {
$WRITE
    }
}
