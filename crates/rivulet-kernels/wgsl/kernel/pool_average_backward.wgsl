fn covers(window: Window, i: u32) -> bool {
    return i32(i) >= window.first && i32(i) < window.last;
}
fn element(e: u32) -> $C {
    let w = e % p.size.z;
    let h = e / p.size.z % p.size.y;
    let plane = e / (p.size.z * p.size.y);
    let d = plane % p.size.x;
    let outer = plane / p.size.x;
    let depths = windows_over(d, 0u);
    let heights = windows_over(h, 1u);
    let widths = windows_over(w, 2u);
    var sum = $C(0);
    for (var i = depths.x; i <= depths.y; i++) {
        let depth = window(u32(i), 0u);
        for (var j = heights.x; j <= heights.y; j++) {
            let height = window(u32(j), 1u);
            let row = p.offsets.y + ((outer * p.pooled.x + u32(i)) * p.pooled.y + u32(j)) * p.pooled.z;
            for (var k = widths.x; k <= widths.y; k++) {
                let width = window(u32(k), 2u);
                if (covers(depth, d) && covers(height, h) && covers(width, w)) {
                    sum += load_x(row + u32(k)) / $C(divisor(depth, height, width));
                }
            }
        }
    }
    return sum;
}
