// Mean first, then the squares of what is left: exact where sums of squares would cancel.
fn fold_sum(base: u32, first: u32, step: u32, end: u32) -> f32 {
    var total = 0.0;
    for (var r = first; r < end; r += step) {
        total += mapped(base, r);
    }
    return total;
}
fn fold_squares(base: u32, first: u32, step: u32, end: u32, mean: f32) -> f32 {
    var total = 0.0;
    for (var r = first; r < end; r += step) {
        let d = mapped(base, r) - mean;
        total = fma(d, d, total);
    }
    return total;
}
$SHARE
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let o = $RESULT_INDEX;
    if (o >= p.kept) {
        return;
    }
    let base = kept_place(o);
    let mean = $MEAN / f32(p.count);
    let squares = $SQUARES;
    if ($WRITES) {
        // scale is 1 / (count - correction).
        let total = squares * p.scale;
        store_out(p.offsets.x + o, $FINISH);
    }
}
