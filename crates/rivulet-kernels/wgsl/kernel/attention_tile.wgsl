// As attention.wgsl, for many queries: $QUERIES of one head in a workgroup, and 32 keys at a time. An invocation makes the
// scores of 4 queries and 4 keys, and then a share of the output of 4 queries, both as products of tiles
// (matmul_tile.wgsl). Vectors of q, of the keys and of the weights hold four queries or keys; those of the values four
// elements of a head.
var<workgroup> tile_q: array<vec4<f32>, $Q_VECTORS>;
// The keys, then their weights.
var<workgroup> tile: array<vec4<f32>, $TILE_VECTORS>;
var<workgroup> tile_v: array<vec4<f32>, $V_VECTORS>;
var<workgroup> parts: array<vec4<f32>, $THREADS>;

// A key that a query does not see has no weight, also where it sees none and the difference would be a NaN.
fn weight(score: f32, top: f32) -> f32 {
    return select(exp_f32(score - top), 0.0, bitcast<u32>(score) == 0xff800000u);
}
fn weights(score: vec4<f32>, top: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        weight(score.x, top.x),
        weight(score.y, top.y),
        weight(score.z, top.z),
        weight(score.w, top.w),
    );
}

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let kv_head = group.y / p.group;
    let heads = vec4<u32>(group.y, group.y, kv_head, kv_head);
    let base = p.offsets + group.z * p.batch_strides + heads * p.head_strides;
    let mask_base = p.mask_offset + group.z * p.mask_strides.x + group.y * p.mask_strides.y;
    let first_query = group.x * $QUERIESu;
    let x = local % 8u;
    let y = local / 8u;
    let query = first_query + y * 4u;
    for (var i = local; i < $QUERIESu * $VECTORSu; i += $THREADSu) {
        let row = i / $VECTORSu;
        let d = i % $VECTORSu * 4u;
        let start = base.y + min(first_query + row, p.queries - 1u) * p.row_strides.y;
        let value = four_q(start, d)$SCALED;
        for (var j = 0u; j < 4u; j++) {
            tile_q[(d + j) * $Q_PITCHu + row / 4u][row % 4u] = value[j];
        }
    }
    var highest = vec4<f32>(-inf_f32());
    var sum = vec4<f32>();
$DECLARE
    let end = $END;
    for (var first = 0u; first < end; first += 32u) {
        for (var i = local; i < 32u * $VECTORSu; i += $THREADSu) {
            let row = i / $VECTORSu;
            let d = i % $VECTORSu * 4u;
            let start = base.z + min(first + row, p.keys - 1u) * p.row_strides.z;
            let value = four_k(start, d);
            for (var j = 0u; j < 4u; j++) {
                tile[(d + j) * 9u + row / 4u][row % 4u] = value[j];
            }
        }
        workgroupBarrier();
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var d = 0u; d < $DIMu; d++) {
            let a = tile_q[d * $Q_PITCHu + y];
            let b = tile[d * 9u + x];
            s0 = fma(a, vec4<f32>(b.x), s0);
            s1 = fma(a, vec4<f32>(b.y), s1);
            s2 = fma(a, vec4<f32>(b.z), s2);
            s3 = fma(a, vec4<f32>(b.w), s3);
        }
        for (var r = 0u; r < 4u; r++) {
            let key = first + x * 4u;
            s0[r] = masked(s0[r], mask_base, query + r, key);
            s1[r] = masked(s1[r], mask_base, query + r, key + 1u);
            s2[r] = masked(s2[r], mask_base, query + r, key + 2u);
            s3[r] = masked(s3[r], mask_base, query + r, key + 3u);
        }
        parts[x * $ROWSu + y] = max(max(s0, s1), max(s2, s3));
        workgroupBarrier();
        for (var i = local; i < 32u * $VECTORSu; i += $THREADSu) {
            let start = base.w + min(first + i / $VECTORSu, p.keys - 1u) * p.row_strides.w;
            tile_v[i] = four_v(start, i % $VECTORSu * 4u);
        }
        var top = highest;
        for (var i = 0u; i < 8u; i++) {
            top = max(top, parts[i * $ROWSu + y]);
        }
        s0 = weights(s0, top);
        s1 = weights(s1, top);
        s2 = weights(s2, top);
        s3 = weights(s3, top);
        let factor = weights(highest, top);
        sum = fma(sum, factor, (s0 + s1) + (s2 + s3));
$SCALE
        highest = top;
        let at = x * 4u * $Q_PITCHu + y;
        tile[at] = s0;
        tile[at + $Q_PITCHu] = s1;
        tile[at + 2u * $Q_PITCHu] = s2;
        tile[at + 3u * $Q_PITCHu] = s3;
        workgroupBarrier();
        for (var j = 0u; j < 32u; j++) {
            let a = tile[j * $Q_PITCHu + y];
$GATHER
        }
        workgroupBarrier();
    }
    parts[x * $ROWSu + y] = sum;
    workgroupBarrier();
    var total = vec4<f32>();
    for (var i = 0u; i < 8u; i++) {
        total += parts[i * $ROWSu + y];
    }
$WRITE
}
