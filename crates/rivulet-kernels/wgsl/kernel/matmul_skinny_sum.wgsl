fn column_sum(local: u32, slot: u32, slice: u32, value: f32) -> f32 {
    // Slices of a column side by side, whatever the order of the invocations.
    let at = slot * $SLICESu + slice;
    parts[at] = value;
    workgroupBarrier();
    for (var width = $SLICESu / 2u; width > 0u; width = width / 2u) {
        if (slice < width) {
            parts[at] += parts[at + width];
        }
        workgroupBarrier();
    }
    let total = parts[slot * $SLICESu];
    workgroupBarrier();
    return total;
}
