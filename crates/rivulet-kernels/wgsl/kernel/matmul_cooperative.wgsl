// Products of 16 x 16 matrices that a subgroup of 32 holds together: a workgroup makes $TM x $TN, each subgroup
// $OWN_ROWS x $OWN_COLUMNS of it, in steps of $TK along k. Elements stay bits on their way, eight of two bytes to a vector;
// what they are, the translator says. The next tiles are on their way from memory while these are multiplied. Rows and
// columns past the last ones are made of the last ones, and not stored.
var<workgroup> tile_a: array<vec4<u32>, $A_VECTORS>;
var<workgroup> tile_b: array<vec4<u32>, $B_VECTORS>;
// Matrices of sums on their way out, $HELD of each subgroup; rows of five vectors begin in other banks.
var<workgroup> sums: array<vec4<f32>, $SUMS>;

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = $BASE;
    let first = $FIRST;
    let end = $END;
    let first_row = group.y * $TMu;
    let first_column = group.x * $TNu;
    let subgroup = local / 32u;
    let lane = local % 32u;
    let own_row = subgroup / $XSu * $OWN_ROWSu;
    let own_column = subgroup % $XSu * $OWN_COLUMNSu;
$DECLARE
$FETCH
    for (var k = first; k < end; k += $TKu) {
$KEEP
        workgroupBarrier();
$FETCH_NEXT
$MULTIPLY
        workgroupBarrier();
    }
    // An invocation stores half a row of each matrix.
    let row = first_row + own_row + lane / 2u;
    let column = first_column + own_column + lane % 2u * 8u;
    let half_row = lane / 2u * 5u + lane % 2u * 2u;
$WRITE
}
