var<private> at: vec4<u32>;
$COPIES
fn locate(e: u32) {
    at = p.offsets + e;
}
fn element(e: u32) -> f32 {
    let w = e % p.size.z;
    let h = e / p.size.z % p.size.y;
    let plane = e / (p.size.z * p.size.y);
    let d = plane % p.size.x;
    let outer = plane / p.size.x;
    var sum = 0.0;
    for (var i = 0u; i < copies(d, p.before.x, p.size.x, p.padded.x); i++) {
        let depth = copy(d, i, p.before.x, p.size.x, p.padded.x);
        for (var j = 0u; j < copies(h, p.before.y, p.size.y, p.padded.y); j++) {
            let row = copy(h, j, p.before.y, p.size.y, p.padded.y);
            for (var k = 0u; k < copies(w, p.before.z, p.size.z, p.padded.z); k++) {
                let column = copy(w, k, p.before.z, p.size.z, p.padded.z);
                if (max(max(depth, row), column) != 0xffffffffu) {
                    sum += load_x(p.offsets.y + ((outer * p.padded.x + depth) * p.padded.y + row) * p.padded.z + column);
                }
            }
        }
    }
    return sum;
}
