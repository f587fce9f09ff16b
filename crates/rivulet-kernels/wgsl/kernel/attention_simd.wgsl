// Attention as in attention.wgsl, on 8 x 8 matrices that a subgroup of 32 holds together. A workgroup of 4 subgroups has 32
// queries of one head, each subgroup 8 of them, and goes over the keys 32 at a time. 4 invocations share a query outside of
// the products. What has been gathered is not held as matrices, since each row has a factor of its own; a product with a
// diagonal matrix would carry a NaN of one query to others.
//
// The queries, then in each step the keys, the values and what the step gathers, in turn. Rows of $DIM, and 4 more so that
// they begin in other banks.
var<workgroup> tile: array<f32, $TILE>;
// A step's scores of each query, then its weights; behind them what the query's invocations tell one another.
var<workgroup> scores: array<f32, 1152>;

fn put_four(row: u32, d: u32, value: vec4<f32>) {
    let at = row * $PITCHu + d;
    tile[at] = value.x;
    tile[at + 1u] = value.y;
    tile[at + 2u] = value.z;
    tile[at + 3u] = value.w;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let kv_head = group.y / p.group;
    let heads = vec4<u32>(group.y, group.y, kv_head, kv_head);
    let base = p.offsets + group.z * p.batch_strides + heads * p.head_strides;
    let mask_base = p.mask_offset + group.z * p.mask_strides.x + group.y * p.mask_strides.y;
    let first_query = group.x * $QUERIESu;
    // The first row of the invocation's subgroup, and the invocation's own.
    let own = local / 32u * 8u;
    let slot = local / 4u;
    let part = local % 4u;
    let query = first_query + slot;
    let told = slot * 36u + 32u;
    for (var i = local; i < $FOURSu; i += 128u) {
        let row = min(first_query + i / $VECTORSu, p.queries - 1u);
        let d = i % $VECTORSu * 4u;
        put_four(i / $VECTORSu, d, four_q(base.y + row * p.row_strides.y, d));
    }
    workgroupBarrier();
$LOAD_Q
    workgroupBarrier();
    var highest = -inf_f32();
    var sum = 0.0;
$DECLARE
    let end = $END;
    for (var first = 0u; first < end; first += 32u) {
        for (var i = local; i < $FOURSu; i += 128u) {
            let row = min(first + i / $VECTORSu, p.keys - 1u);
            let d = i % $VECTORSu * 4u;
            put_four(i / $VECTORSu, d, four_k(base.z + row * p.row_strides.z, d));
        }
        workgroupBarrier();
$SCORES
        workgroupBarrier();
        for (var i = local; i < $FOURSu; i += 128u) {
            let row = first + i / $VECTORSu;
            let d = i % $VECTORSu * 4u;
            // Keys past the last one have the weight 0, which does not make 0 of an infinite value.
            var value = vec4<f32>();
            if (row < p.keys) {
                value = four_v(base.w + row * p.row_strides.w, d);
            }
            put_four(i / $VECTORSu, d, value);
        }
        var top = highest;
        for (var j = part; j < 32u; j += 4u) {
            let score = masked(scores[slot * 36u + j] * p.scale, mask_base, query, first + j);
            scores[slot * 36u + j] = score;
            top = f_maximum(top, score);
        }
        scores[told + part] = top;
        workgroupBarrier();
        for (var j = 0u; j < 4u; j++) {
            top = f_maximum(top, scores[told + j]);
        }
        // While everything is masked there is nothing to scale, and the difference of infinities would be a NaN.
        let nothing = bitcast<u32>(top) == 0xff800000u;
        let factor = select(exp_f32(highest - top), 1.0, nothing);
        sum = sum * factor;
        for (var j = part; j < 32u; j += 4u) {
            let weight = select(exp_f32(scores[slot * 36u + j] - top), 0.0, nothing);
            scores[slot * 36u + j] = weight;
            sum += weight;
        }
        highest = top;
        workgroupBarrier();
$GATHER
        workgroupBarrier();
$GATHERED
        workgroupBarrier();
$ADD
        workgroupBarrier();
    }
    scores[told + part] = sum;
    workgroupBarrier();
    let total = (scores[told] + scores[told + 1u]) + (scores[told + 2u] + scores[told + 3u]);
    // A query that sees no key gives 0, as PyTorch's safe softmax.
    let share = select(1.0 / total, 0.0, is_zero(total));
$FINISH
    workgroupBarrier();
    for (var i = local; i < $FOURSu; i += 128u) {
        let row = first_query + i / $VECTORSu;
        let d = i % $VECTORSu * 4u;
        let at = i / $VECTORSu * $PITCHu + d;
        if (row < p.queries) {
            let value = vec4<f32>(tile[at], tile[at + 1u], tile[at + 2u], tile[at + 3u]);
            store_four(base.x + row * p.row_strides.x, d, value);
        }
    }
    if (query < p.queries) {
$KEEP
    }
}
