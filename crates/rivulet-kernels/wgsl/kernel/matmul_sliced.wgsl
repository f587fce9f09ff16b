// For products too small to fill a device: a workgroup makes 16 x 16, each of its 8 runs of 32 invocations an eighth of the
// terms, 32 along k at a time. An invocation makes 4 x 2 of them. Both factors run along k.
var<workgroup> tile_a: array<f32, 4096>;
var<workgroup> tile_b: array<f32, 4096>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = $BASE;
    let first = $FIRST;
    let end = $END;
    let first_row = group.y * 16u;
    let first_column = group.x * 16u;
    let slice = local / 32u;
    let lane = local % 32u;
    let x = lane % 8u;
    let y = lane / 8u;
    // An invocation reads vectors of four rows and four columns, all at the same place along k. Rows and columns past the
    // last ones are made of the last ones, and not stored.
    let own_k = lane % 8u * 4u;
    let own_row = lane / 8u;
    // Rows change places with k by fours, so that not all of them are written to the same banks.
    let keep = (slice * 32u + own_k) * 16u + own_row;
    let turn = lane % 4u * 4u;
$DECLARE
$FETCH
    for (var k = first; k < end; k += 256u) {
$KEEP
        workgroupBarrier();
$FETCH_NEXT
$MULTIPLY
        workgroupBarrier();
    }
$PARTS
    workgroupBarrier();
    if (local < 64u) {
        var sums = vec4<f32>();
        for (var i = 0u; i < 8u; i++) {
            let at = i * 256u + local * 4u;
            sums += vec4<f32>(tile_a[at], tile_a[at + 1u], tile_a[at + 2u], tile_a[at + 3u]);
        }
        store_four(base, first_row + local / 4u, first_column + local % 4u * 4u, sums);
    }
}
