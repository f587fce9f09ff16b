// Where a value belongs among the elements of a sorted row: before what is not less, or behind what is not
// greater. A NaN belongs behind everything.
fn goes_before(value: $C, other: $C) -> bool {
    if ($IS_NAN) {
        return false;
    }
    return $BEFORE;
}
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let e = (group.y * groups.x + group.x) * 256u + local;
    if (e >= p.count) {
        return;
    }
    var row = 0u;
    if (p.values != 0u) {
        row = e / p.values * p.size;
    }
    let value = load_values(p.offsets.z + e);
    var begin = 0u;
    var end = p.size;
    while (begin < end) {
        let middle = (begin + end) / 2u;
        let other = load_rows(p.offsets.y + row + $PLACE);
        if (goes_before(value, other)) {
            end = middle;
        } else {
            begin = middle + 1u;
        }
    }
    store_out(p.offsets.x + e, $OUT(begin));
}
