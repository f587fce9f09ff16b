var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
// The block that has place `i` of the image as its element `k`; -1 where there is none.
fn block_of(i: u32, k: u32, dim: u32) -> i32 {
    let start = i32(i) + p.padding[dim] - i32(k * p.dilation[dim]);
    let stride = i32(p.stride[dim]);
    let block = start / stride;
    return select(-1, block, start >= 0 && block * stride == start && block < i32(p.blocks[dim]));
}
fn element(e: u32) -> $C {
    let w = e % p.size.y;
    let h = e / p.size.y % p.size.x;
    let plane = e / (p.size.x * p.size.y);
    var sum = $C(0);
    for (var i = 0u; i < p.kernel.x; i++) {
        let row = block_of(h, i, 0u);
        if (row < 0) {
            continue;
        }
        for (var j = 0u; j < p.kernel.y; j++) {
            let column = block_of(w, j, 1u);
            if (column >= 0) {
                let part = (plane * p.kernel.x + i) * p.kernel.y + j;
                sum += load_x(p.offsets.y + (part * p.blocks.x + u32(row)) * p.blocks.y + u32(column));
            }
        }
    }
    return sum;
}
