var<workgroup> parts: array<$A, 256>;
fn share(local: u32, value: $A) -> $A {
    parts[local] = value;
    workgroupBarrier();
    for (var width = 128u; width > 0u; width = width / 2u) {
        if (local < width) {
            parts[local] = $COMBINE(parts[local], parts[local + width]);
        }
        workgroupBarrier();
    }
    let total = parts[0];
    // Nobody may begin to share another value before all have read this one.
    workgroupBarrier();
    return total;
}
