// Attention without the matrix of scores (T. Dao et al., FlashAttention): a workgroup holds $QUERIES queries of one head
// and goes over the keys 16 at a time; whenever a query's highest score rises, what it has gathered is scaled down.
// $LANES invocations share a query, each with $OWN vectors of its output.
var<workgroup> tile_q: array<vec4<f32>, $Q_VECTORS>;
// The keys, then the values of the same 16 places.
var<workgroup> tile: array<vec4<f32>, $KV_VECTORS>;
var<workgroup> scores: array<f32, $SCORES>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let kv_head = group.y / p.group;
    let heads = vec4<u32>(group.y, group.y, kv_head, kv_head);
    let base = p.offsets + group.z * p.batch_strides + heads * p.head_strides;
    let mask_base = p.mask_offset + group.z * p.mask_strides.x + group.y * p.mask_strides.y;
    let first_query = group.x * $QUERIESu;
    let slot = local / $LANESu;
    let lane = local % $LANESu;
    let query = first_query + slot;
    let last = p.queries - 1u;
    for (var i = local; i < $Q_VECTORSu; i += 128u) {
        let start = base.y + min(first_query + i / $VECTORSu, last) * p.row_strides.y;
        let d = i % $VECTORSu * 4u;
        tile_q[i] = four_q(start, d)$SCALED;
    }
    var highest = -inf_f32();
    var sum = 0.0;
$DECLARE
    let end = $END;
    for (var first = 0u; first < end; first += 16u) {
        for (var i = local; i < $KV_VECTORSu; i += 128u) {
            let start = base.z + min(first + i / $VECTORSu, p.keys - 1u) * p.row_strides.z;
            let d = i % $VECTORSu * 4u;
            tile[i] = four_k(start, d);
        }
        workgroupBarrier();
        for (var j = lane; j < 16u; j += $LANESu) {
            var score = 0.0;
            for (var d = 0u; d < $VECTORSu; d++) {
                score += dot(tile_q[slot * $VECTORSu + d], tile[j * $VECTORSu + d]);
            }
            scores[slot * 16u + j] = masked(score, mask_base, query, first + j);
        }
        workgroupBarrier();
        for (var i = local; i < $KV_VECTORSu; i += 128u) {
            let start = base.w + min(first + i / $VECTORSu, p.keys - 1u) * p.row_strides.w;
            let d = i % $VECTORSu * 4u;
            tile[i] = four_v(start, d);
        }
        var top = highest;
        for (var j = 0u; j < 16u; j++) {
            top = f_maximum(top, scores[slot * 16u + j]);
        }
        workgroupBarrier();
        // While everything is masked there is nothing to scale, and the difference of infinities would be a NaN.
        let nothing = bitcast<u32>(top) == 0xff800000u;
        let factor = select(exp_f32(highest - top), 1.0, nothing);
        for (var j = lane; j < 16u; j += $LANESu) {
            let score = scores[slot * 16u + j];
            scores[slot * 16u + j] = select(exp_f32(score - top), 0.0, nothing);
        }
        workgroupBarrier();
        sum = sum * factor;
$SCALE
        for (var j = 0u; j < 16u; j++) {
            let weight = scores[slot * 16u + j];
            sum += weight;
$GATHER
        }
        highest = top;
        workgroupBarrier();
    }
    if (query < p.queries) {
        let share = $SHARE;
        let to = base.x + query * p.row_strides.x;
$WRITE
$KEEP
    }
}
