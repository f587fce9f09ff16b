// As matmul_tile.wgsl, reading four elements at a time, with the next tiles on their way from memory while these are
// multiplied. Everything along k is written out, so that no place in shared memory has to be worked out. Shared memory is
// written in columns where k runs along memory; vectors change places so that those writes meet in no bank. Rows and
// columns past the last ones are made of the last ones, and not stored.
var<workgroup> tile_a: array<vec4<f32>, $A_VECTORS>;
var<workgroup> tile_b: array<vec4<f32>, $B_VECTORS>;

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = $BASE;
    let first = $FIRST;
    let end = $END;
    let first_row = group.y * $TMu;
    let first_column = group.x * $TNu;
    // 32 invocations that run together are 8 x 4 of the tile.
    let lane = local % 32u;
    let x = local / 32u % $XSu * 8u + lane % 8u;
    let y = local / 32u / $XSu * 4u + lane / 8u;
$DECLARE
$FETCH
    for (var k = first; k < end; k += $TKu) {
$KEEP
        workgroupBarrier();
$FETCH_NEXT
$MULTIPLY
        workgroupBarrier();
    }
$WRITE
}
