var<workgroup> values: array<$A, 256>;
var<workgroup> indices: array<u32, 256>;
fn share(local: u32, mine: Best) -> Best {
    values[local] = mine.value;
    indices[local] = mine.index;
    workgroupBarrier();
    for (var width = 128u; width > 0u; width = width / 2u) {
        if (local < width) {
            let other = local + width;
            let best = better(Best(values[local], indices[local]), Best(values[other], indices[other]));
            values[local] = best.value;
            indices[local] = best.index;
        }
        workgroupBarrier();
    }
    return Best(values[0], indices[0]);
}
