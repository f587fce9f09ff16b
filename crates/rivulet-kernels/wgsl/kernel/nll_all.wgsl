// One workgroup, so that the order of the sum is fixed.
var<workgroup> parts: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
    var sum = vec2<f32>();
    for (var row = local; row < p.rows; row += 256u) {
        let target_class = target_of(row);
        let weight = weight_of(target_class);
        sum += vec2<f32>(loss_of(row, target_class, weight), weight);
    }
    parts[local] = sum;
    workgroupBarrier();
    for (var width = 128u; width > 0u; width = width / 2u) {
        if (local < width) {
            parts[local] += parts[local + width];
        }
        workgroupBarrier();
    }
    if (local == 0u) {
        let total = parts[0];
        store_out(p.offsets.x, $LOSS);
        store_total(p.total, total.y);
    }
}
