var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
// The place of the largest element among those of x's plane; a NaN is larger than all, and the last one counts.
fn element(e: u32) -> i64 {
    let width = window(e % p.pooled.z, 2u);
    let height = window(e / p.pooled.z % p.pooled.y, 1u);
    let plane = e / (p.pooled.z * p.pooled.y);
    let depth = window(plane % p.pooled.x, 0u);
    let start = p.offsets.y + plane / p.pooled.x * p.size.x * p.size.y * p.size.z;
    var place = (u32(depth.first) * p.size.y + u32(height.first)) * p.size.z + u32(width.first);
    var best = load_x(start + place);
    for (var i = depth.first; i < depth.last; i += i32(p.dilation.x)) {
        for (var j = height.first; j < height.last; j += i32(p.dilation.y)) {
            for (var k = width.first; k < width.last; k += i32(p.dilation.z)) {
                let here = (u32(i) * p.size.y + u32(j)) * p.size.z + u32(k);
                let value = load_x(start + here);
                if (value > best || $IS_NAN) {
                    best = value;
                    place = here;
                }
            }
        }
    }
    return i64(place);
}
