var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
// The place of x that place `o` shows.
fn source(o: u32, dim: u32) -> u32 {
    let size = p.size[dim];
    if (p.resampled[dim] == size) {
        return o;
    }
    return min(u32($PLACE), size - 1u);
}
fn weight(o: u32, i: u32, dim: u32) -> f32 {
    return select(0.0, 1.0, source(o, dim) == i);
}
