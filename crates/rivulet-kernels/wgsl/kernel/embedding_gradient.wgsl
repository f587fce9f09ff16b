// An invocation makes one element of a row of the table, where equal indices begin, and goes along them: the order of
// the sum is the order of the indices.
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + local;
    let first = i / p.size;
    if (first >= p.count) {
        return;
    }
    let row = i32(load_sorted(p.offsets.y + first));
    if (row < 0 || row == p.padding || (first > 0u && i32(load_sorted(p.offsets.y + first - 1u)) == row)) {
        return;
    }
    let column = i % p.size;
    var sum = 0.0;
    var next = first;
    while (next < p.count) {
        if (i32(load_sorted(p.offsets.y + next)) != row) {
            break;
        }
        let source = u32(load_order(p.offsets.z + next));
        sum += load_gradient(p.offsets.w + source * p.size + column);
        next++;
    }
    store_out(p.offsets.x + u32(row) * p.size + column, sum$SCALE);
}
