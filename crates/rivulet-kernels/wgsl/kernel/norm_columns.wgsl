// A workgroup sums up 32 columns over a chunk of rows: 8 invocations share a column, each with every eighth row, and
// neighbours read neighbouring elements. Sums of chunk c are row c of the outputs.
var<workgroup> parts: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = group.x * 32u + local % 32u;
    let slice = local / 32u;
    let end = min((group.y + 1u) * p.chunk, p.rows);
    var sum = vec2<f32>();
    if (column < p.size) {
        for (var row = group.y * p.chunk + slice; row < end; row += 8u) {
            let at = row * p.size + column;
            let gradient = load_gradient(p.offsets.z + at);
            sum += vec2<f32>($WEIGHT_TERM, gradient);
        }
    }
    parts[local] = sum;
    workgroupBarrier();
    for (var width = 128u; width >= 32u; width = width / 2u) {
        if (local < width) {
            parts[local] += parts[local + width];
        }
        workgroupBarrier();
    }
    if (local < 32u && column < p.size) {
        let to = group.y * p.size + column;
        let total = parts[local];
$STORES
    }
}
