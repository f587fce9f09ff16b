// As matmul_tile.wgsl, for factors that are read four elements at a time, one such vector for each invocation and step.
// Two tiles take turns: while one is multiplied, the next is on its way from memory, and a step has one barrier. Shared
// memory is written in columns where k runs along memory; vectors change places so that those writes meet in no bank.
var<workgroup> tile_a: array<vec4<f32>, $A_BOTH>;
var<workgroup> tile_b: array<vec4<f32>, $B_BOTH>;

fn fetch_a(base: u32, first_row: u32, first_k: u32, local: u32) -> vec4<f32> {
    let row = first_row + $A_ROW;
    let k = first_k + $A_K;
    if (row < p.m && k < p.k) {
        return load_four_a(base + $A_AT);
    }
    return vec4<f32>();
}
fn fetch_b(base: u32, first_column: u32, first_k: u32, local: u32) -> vec4<f32> {
    let column = first_column + $B_COLUMN;
    let k = first_k + $B_K;
    if (k < p.k && column < p.n) {
        return load_four_b(base + $B_AT);
    }
    return vec4<f32>();
}
fn keep(slot_a: u32, slot_b: u32, local: u32, a: vec4<f32>, b: vec4<f32>) {
$KEEP_A
$KEEP_B
}

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = $BASE;
    let first = $FIRST;
    let end = $END;
    let first_row = group.y * $TMu;
    let first_column = group.x * $TNu;
    let x = local % $XSu;
    let y = local / $XSu;
$DECLARE
    keep(0u, 0u, local, fetch_a(base.y, first_row, first, local), fetch_b(base.z, first_column, first, local));
    workgroupBarrier();
    var slot = 0u;
    for (var k = first; k < end; k += $TKu) {
        let next_a = fetch_a(base.y, first_row, k + $TKu, local);
        let next_b = fetch_b(base.z, first_column, k + $TKu, local);
        for (var kk = 0u; kk < $TKu; kk++) {
            let from_a = slot * $A_VECTORSu + kk * ($TMu / 4u);
            let from_b = slot * $B_VECTORSu + kk * ($TNu / 4u);
            let turn = kk / 4u * $TURNu;
$MULTIPLY
        }
        slot = 1u - slot;
        keep(slot * $A_VECTORSu, slot * $B_VECTORSu, local, next_a, next_b);
        workgroupBarrier();
    }
$WRITE
}
