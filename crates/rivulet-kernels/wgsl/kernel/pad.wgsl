var<private> at: vec4<u32>;
// Place of the input that place `o` of the output copies.
fn source(o: u32, before: i32, size: u32) -> u32 {
    let i = i32(o) - before;
    let last = i32(size) - 1;
    return u32($SOURCE);
}
fn locate(e: u32) {
    at = p.offsets + e;
}
fn element(e: u32) -> $C {
    let w = e % p.padded.z;
    let h = e / p.padded.z % p.padded.y;
    let plane = e / (p.padded.z * p.padded.y);
    let d = plane % p.padded.x;
    let outer = plane / p.padded.x;
    let row = (outer * p.size.x + source(d, p.before.x, p.size.x)) * p.size.y + source(h, p.before.y, p.size.y);
    return load_x(p.offsets.y + row * p.size.z + source(w, p.before.z, p.size.z));
}
