// Products of 16 x 16 matrices that a subgroup of 32 holds together. A workgroup of 8 subgroups makes 128 x 128, each
// subgroup 32 x 64 of it, in steps of 32 along k. Elements stay bits on their way: a vector is four float16.
var<workgroup> tile_a: array<vec2<u32>, $A_VECTORS>;
var<workgroup> tile_b: array<vec2<u32>, $B_VECTORS>;
// A matrix of sums of each subgroup, on its way out.
var<workgroup> parts: array<f32, 2048>;

fn fetch_a(base: u32, first_row: u32, first_k: u32, i: u32) -> vec2<u32> {
    let row = first_row + $A_ROW;
    let k = first_k + $A_K;
    if (row < p.m && k < p.k) {
        return a[(base + $A_AT) / 4u];
    }
    return vec2<u32>();
}
fn fetch_b(base: u32, first_column: u32, first_k: u32, i: u32) -> vec2<u32> {
    let column = first_column + $B_COLUMN;
    let k = first_k + $B_K;
    if (k < p.k && column < p.n) {
        return b[(base + $B_AT) / 4u];
    }
    return vec2<u32>();
}
// The 16 x 16 sums of this subgroup, two vectors for each invocation.
fn store_parts(base: vec4<u32>, row: u32, column: u32, subgroup: u32, lane: u32) {
    for (var i = lane; i < 64u; i += 32u) {
        let at = subgroup * 256u + i * 4u;
        let sums = vec4<f32>(parts[at], parts[at + 1u], parts[at + 2u], parts[at + 3u]);
        store_four(base, row + i / 4u, column + i % 4u * 4u, sums);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = matrices(group.z);
    let first_row = group.y * 128u;
    let first_column = group.x * 128u;
    let subgroup = local / 32u;
    let lane = local % 32u;
    let own_row = subgroup / 2u * 32u;
    let own_column = subgroup % 2u * 64u;
$DECLARE
$FETCH
    for (var k = 0u; k < p.k; k += 32u) {
$KEEP
        workgroupBarrier();
$FETCH_NEXT
        for (var kk = 0u; kk < 32u; kk += 16u) {
$MULTIPLY
        }
        workgroupBarrier();
    }
$WRITE
}
