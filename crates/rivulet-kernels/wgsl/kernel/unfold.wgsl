var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
// An element of `[samples, channels * kernel, blocks]` is one of a block of the image, or of the zeros around it.
fn element(e: u32) -> $C {
    let block = e % (p.blocks.x * p.blocks.y);
    let part = e / (p.blocks.x * p.blocks.y);
    let inside = part % (p.kernel.x * p.kernel.y);
    let plane = part / (p.kernel.x * p.kernel.y);
    let h = i32(block / p.blocks.y * p.stride.x + inside / p.kernel.y * p.dilation.x) - p.padding.x;
    let w = i32(block % p.blocks.y * p.stride.y + inside % p.kernel.y * p.dilation.y) - p.padding.y;
    if (h < 0 || h >= i32(p.size.x) || w < 0 || w >= i32(p.size.y)) {
        return $C(0);
    }
    return load_x(p.offsets.y + (plane * p.size.x + u32(h)) * p.size.y + u32(w));
}
