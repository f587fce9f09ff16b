// For few rows: an invocation goes along k for one column and $ROWS rows; $SLICES of them share a column, and their sums
// are added up at the end. Neighbouring invocations read neighbouring elements of b, which is read once for all rows,
// $TERMS at a time.
var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = matrices(group.z);
    let slice = $SLICE;
    let slot = $COLUMN;
    let column = group.x * $COLUMNSu + slot;
    let first_row = group.y * $ROWSu;
    // Rows past the last one are made again and not stored.
    let last = p.m - 1u;
    let b = base.z + min(column, p.n - 1u) * p.strides.w;
$DECLARE
    for (var k = slice * $TERMSu; k < p.k; k += $SLICESu * $TERMSu) {
        let factor = $LOAD_B(b + k * p.strides.z);
        let a = base.y + k * p.strides.y;
$MULTIPLY
    }
$WRITE
}
