// As attention.wgsl, for many queries: $QUERIES of one head in a workgroup, and 32 keys at a time for each of its $SLICES
// slices, which put what they have together at the end. An invocation makes the scores of 4 queries and 4 keys, and then a
// share of the output of 4 queries, both as products of tiles (matmul_tile.wgsl). Vectors of q, of the keys and of the
// weights hold four queries or keys; those of the values four elements of a head. Keys and values are on their way from
// memory while those before them are worked on.
var<workgroup> tile_q: array<vec4<f32>, $Q_VECTORS>;
// The keys of each slice, then the values; at the end their shares of the output.
var<workgroup> tile: array<vec4<f32>, $TILE_VECTORS>;
var<workgroup> tile_w: array<vec4<f32>, $W_VECTORS>;
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
    let slice = local / $SLICEu;
    let thread = local % $SLICEu;
    // As in matmul_quads.wgsl.
    let x = thread / 2u % 8u;
    let y = thread % 2u + thread / 16u * 2u;
    let query = first_query + y * 4u;
    let own_tile = slice * $KV_VECTORSu;
    let own_w = slice * $OWN_W_VECTORSu;
    let own_parts = slice * $SLICEu;
    let end = $END;
$DECLARE
$FETCH_K
$FETCH_V
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
    for (var start = 0u; start < end; start += $STEPu) {
        let first = start + slice * 32u;
$KEEP_K
        workgroupBarrier();
$FETCH_NEXT_K
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var d = 0u; d < $DIMu; d++) {
            let a = tile_q[d * $Q_PITCHu + y];
            let b = tile[own_tile + d * 9u + x];
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
        parts[own_parts + x * $ROWSu + y] = max(max(s0, s1), max(s2, s3));
        workgroupBarrier();
$KEEP_V
$FETCH_NEXT_V
        var top = highest;
        for (var i = 0u; i < 8u; i++) {
            top = max(top, parts[own_parts + i * $ROWSu + y]);
        }
        s0 = weights(s0, top);
        s1 = weights(s1, top);
        s2 = weights(s2, top);
        s3 = weights(s3, top);
        let factor = weights(highest, top);
        sum = fma(sum, factor, (s0 + s1) + (s2 + s3));
$SCALE
        highest = top;
        let at = own_w + x * 4u * $Q_PITCHu + y;
        tile_w[at] = s0;
        tile_w[at + $Q_PITCHu] = s1;
        tile_w[at + 2u * $Q_PITCHu] = s2;
        tile_w[at + 3u * $Q_PITCHu] = s3;
        workgroupBarrier();
        for (var j = 0u; j < 32u; j++) {
            let a = tile_w[own_w + j * $Q_PITCHu + y];
$GATHER
        }
        workgroupBarrier();
    }
    parts[own_parts + x * $ROWSu + y] = sum;
    workgroupBarrier();
    var total = vec4<f32>();
    for (var i = 0u; i < 8u; i++) {
        total += parts[own_parts + i * $ROWSu + y];
    }
$JOIN
$WRITE
}
