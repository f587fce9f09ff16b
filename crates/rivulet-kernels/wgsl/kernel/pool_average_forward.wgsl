fn element(e: u32) -> $C {
    let width = window(e % p.pooled.z, 2u);
    let height = window(e / p.pooled.z % p.pooled.y, 1u);
    let plane = e / (p.pooled.z * p.pooled.y);
    let depth = window(plane % p.pooled.x, 0u);
    let outer = plane / p.pooled.x;
    let share = divisor(depth, height, width);
    if (share == 0) {
        return $C(0);
    }
    var sum = $C(0);
    for (var i = depth.first; i < depth.last; i++) {
        for (var j = height.first; j < height.last; j++) {
            let row = p.offsets.y + ((outer * p.size.x + u32(i)) * p.size.y + u32(j)) * p.size.z;
            for (var k = width.first; k < width.last; k++) {
                sum += load_x(row + u32(k));
            }
        }
    }
    return sum / $C(share);
}
