var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
// What the sum over a window is divided by; 0 where it covers nothing.
fn divisor(depth: Window, height: Window, width: Window) -> i32 {
    let rows = max(depth.last - depth.first, 0) * max(height.last - height.first, 0);
    let covered = rows * max(width.last - width.first, 0);
    if (covered == 0 || p.divisor != 0) {
        return select(p.divisor, 0, covered == 0);
    }
    return select(covered, depth.size * height.size * width.size, p.include_padding != 0u);
}
