var<workgroup> rows: array<$C, 256>;
var<workgroup> columns: array<$C, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let x = local % 16u;
    let y = local / 16u;
    let row = group.y * 16u + y;
    let column = group.x * 16u + x;
    let a = p.offsets.y + group.z * p.batch_strides.y;
    let b = p.offsets.z + group.z * p.batch_strides.z;
    var sum = $C(0);
    for (var start = 0u; start < p.k; start += 16u) {
        var from_a = $C(0);
        var from_b = $C(0);
        if (row < p.m && start + x < p.k) {
            from_a = load_a(a + row * p.strides.x + (start + x) * p.strides.y);
        }
        if (column < p.n && start + y < p.k) {
            from_b = load_b(b + (start + y) * p.strides.z + column * p.strides.w);
        }
        rows[local] = from_a;
        columns[local] = from_b;
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            sum += rows[y * 16u + k] * columns[k * 16u + x];
        }
        workgroupBarrier();
    }
    if (row < p.m && column < p.n) {
        store_out(p.offsets.x + (group.z * p.m + row) * p.n + column, sum);
    }
}
