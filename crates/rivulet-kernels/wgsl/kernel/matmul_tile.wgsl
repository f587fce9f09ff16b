// A workgroup makes a tile of $TM x $TN, an invocation $RM x $RN of it: blocks of 4 x 4, a quarter of which lies in each
// stripe of the tile, so that neighbours read neighbouring vectors of shared memory. Steps of $TK along k.
var<workgroup> tile_a: array<vec4<f32>, $A_VECTORS>;
var<workgroup> tile_b: array<vec4<f32>, $B_VECTORS>;

fn fetch_a(base: u32, row: u32, k: u32) -> f32 {
    if (row < p.m && k < p.k) {
        return load_a(base + row * p.strides.x + k * p.strides.y);
    }
    return 0.0;
}
fn fetch_b(base: u32, k: u32, column: u32) -> f32 {
    if (k < p.k && column < p.n) {
        return load_b(base + k * p.strides.z + column * p.strides.w);
    }
    return 0.0;
}

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = $BASE;
    let end = $END;
    let first_row = group.y * $TMu;
    let first_column = group.x * $TNu;
    let x = local % $XSu;
    let y = local / $XSu;
$DECLARE
    for (var k = $FIRST; k < end; k += $TKu) {
        for (var i = local; i < $TMu * $TKu; i += $THREADSu) {
            let kk = $A_K;
            let row = $A_ROW;
            tile_a[kk * ($TMu / 4u) + row / 4u][row % 4u] = fetch_a(base.y, first_row + row, k + kk);
        }
        for (var i = local; i < $TNu * $TKu; i += $THREADSu) {
            let kk = $B_K;
            let column = $B_COLUMN;
            tile_b[kk * ($TNu / 4u) + column / 4u][column % 4u] = fetch_b(base.z, k + kk, first_column + column);
        }
        workgroupBarrier();
        for (var kk = 0u; kk < $TKu; kk++) {
$MULTIPLY
        }
        workgroupBarrier();
    }
$WRITE
}
