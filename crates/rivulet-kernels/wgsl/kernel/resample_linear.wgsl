var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
// The two places of x that place `o` lies between, and the share of the second.
struct Source {
    first: u32,
    second: u32,
    share: f32,
}
fn source(o: u32, dim: u32) -> Source {
    let size = p.size[dim];
    if (p.resampled[dim] == size) {
        return Source(o, o, 0.0);
    }
    let place = $PLACE;
    let first = min(u32(place), size - 1u);
    return Source(first, min(first + 1u, size - 1u), min(max(place - f32(first), 0.0), 1.0));
}
fn weight(o: u32, i: u32, dim: u32) -> f32 {
    let here = source(o, dim);
    return select(0.0, 1.0 - here.share, here.first == i) + select(0.0, here.share, here.second == i);
}
