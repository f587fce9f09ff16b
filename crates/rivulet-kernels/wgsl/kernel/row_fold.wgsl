// One value of all invocations of a row, known to each of them afterwards.
fn row_sum(value: f32) -> f32 {
    let local = slot + lane;
    parts[local] = value;
    workgroupBarrier();
    for (var width = $THREADSu / 2u; width > 0u; width = width / 2u) {
        if (lane < width) {
            parts[local] += parts[local + width];
        }
        workgroupBarrier();
    }
    let total = parts[slot];
    workgroupBarrier();
    return total;
}
fn row_max(value: f32) -> f32 {
    let local = slot + lane;
    parts[local] = value;
    workgroupBarrier();
    for (var width = $THREADSu / 2u; width > 0u; width = width / 2u) {
        if (lane < width) {
            parts[local] = max(parts[local], parts[local + width]);
        }
        workgroupBarrier();
    }
    let total = parts[slot];
    workgroupBarrier();
    return total;
}
