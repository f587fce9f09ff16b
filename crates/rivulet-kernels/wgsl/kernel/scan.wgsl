// A workgroup makes a row, 256 elements at a time: a block is summed up in shared memory in steps of doubling distance,
// and its last total is carried into the next.
var<workgroup> parts: array<$A, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group.y * groups.x + group.x;
    if (row >= p.rows) {
        return;
    }
    let base = p.offsets + (row / p.inner * (p.size * p.inner) + row % p.inner);
    var carry = $IDENTITY;
    for (var first = 0u; first < p.size; first += 256u) {
        let e = first + local;
        var value = $IDENTITY;
        if (e < p.size) {
            let x = load_x(base.y + e * p.inner);
            value = $MAP;
        }
        parts[local] = value;
        workgroupBarrier();
        for (var distance = 1u; distance < 256u; distance = distance * 2u) {
            var before = $IDENTITY;
            if (local >= distance) {
                before = parts[local - distance];
            }
            workgroupBarrier();
            parts[local] = $JOIN(before, parts[local]);
            workgroupBarrier();
        }
        let total = $JOIN(carry, parts[local]);
        carry = $JOIN(carry, parts[255]);
        workgroupBarrier();
        if (e < p.size) {
            store_out(base.x + e * p.inner, $RESULT);
        }
    }
}
