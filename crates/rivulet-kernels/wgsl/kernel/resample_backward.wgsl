// Places of the resampled side that place `i` of x may have a share in: the first and the last.
fn shown_at(i: u32, dim: u32) -> vec2<i32> {
    let last = i32(p.resampled[dim]) - 1;
    let scale = p.scale[dim];
    if (scale == 0.0) {
        return vec2(0, last);
    }
    let begin = i32(max(floor((f32(i) - 1.0) / scale) - 2.0, 0.0));
    let end = i32(min(ceil((f32(i) + 2.0) / scale) + 2.0, f32(last)));
    // The edges stand for everything beyond them.
    return vec2(select(begin, 0, i == 0u), select(end, last, i + 1u == p.size[dim]));
}
fn element(e: u32) -> f32 {
    let w = e % p.size.z;
    let h = e / p.size.z % p.size.y;
    let plane = e / (p.size.z * p.size.y);
    let d = plane % p.size.x;
    let outer = plane / p.size.x;
    let depths = shown_at(d, 0u);
    let heights = shown_at(h, 1u);
    let widths = shown_at(w, 2u);
    var sum = 0.0;
    for (var i = depths.x; i <= depths.y; i++) {
        let of_depth = weight(u32(i), d, 0u);
        if (of_depth == 0.0) {
            continue;
        }
        for (var j = heights.x; j <= heights.y; j++) {
            let of_row = of_depth * weight(u32(j), h, 1u);
            if (of_row == 0.0) {
                continue;
            }
            let row = p.offsets.y + ((outer * p.resampled.x + u32(i)) * p.resampled.y + u32(j)) * p.resampled.z;
            for (var k = widths.x; k <= widths.y; k++) {
                let share = of_row * weight(u32(k), w, 2u);
                if (share != 0.0) {
                    sum += share * load_x(row + u32(k));
                }
            }
        }
    }
    return sum;
}
