// Products of 8 x 8 matrices that a subgroup of 32 holds together. A workgroup of 8 subgroups makes 64 x 64, each subgroup
// 16 x 32 of it, in steps of 16 along k.
var<workgroup> tile_a: array<$E, 1280>;
var<workgroup> tile_b: array<$E, 1088>;
// A matrix of sums of each subgroup, on its way out.
var<workgroup> parts: array<f32, 512>;

fn fetch_a(base: u32, first_row: u32, first_k: u32, at: vec2<u32>) -> f32 {
    let row = first_row + at.x;
    let k = first_k + at.y;
    if (row < p.m && k < p.k) {
        return load_a(base + row * p.strides.x + k * p.strides.y);
    }
    return 0.0;
}
fn fetch_b(base: u32, first_column: u32, first_k: u32, at: vec2<u32>) -> f32 {
    let column = first_column + at.x;
    let k = first_k + at.y;
    if (column < p.n && k < p.k) {
        return load_b(base + k * p.strides.z + column * p.strides.w);
    }
    return 0.0;
}
// The 8 x 8 sums of this subgroup, two for each invocation.
fn store_parts(base: vec4<u32>, first_row: u32, first_column: u32, subgroup: u32, lane: u32) {
    for (var i = lane; i < 64u; i += 32u) {
        let row = first_row + i / 8u;
        let column = first_column + i % 8u;
        if (row < p.m && column < p.n) {
            let sum = parts[subgroup * 64u + i];
            store_out(base.x + row * p.edges.x + column, finished(base, row, column, sum));
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = matrices(group.z);
    let first_row = group.y * 64u;
    let first_column = group.x * 64u;
    let subgroup = local / 32u;
    let lane = local % 32u;
    let own_row = subgroup / 2u * 16u;
    let own_column = subgroup % 2u * 32u;
$DECLARE
    for (var k = 0u; k < p.k; k += 16u) {
        for (var i = local; i < 1024u; i += 256u) {
            let at_a = $A_AT;
            tile_a[at_a.x * 20u + at_a.y] = $E(fetch_a(base.y, first_row, k, at_a));
            let at_b = $B_AT;
            tile_b[at_b.y * 68u + at_b.x] = $E(fetch_b(base.z, first_column, k, at_b));
        }
        workgroupBarrier();
        for (var kk = 0u; kk < 16u; kk += 8u) {
$MULTIPLY
        }
        workgroupBarrier();
    }
$WRITE
}
