// Windows that cut a dimension into as many parts as there are places of the output; they may overlap by one.
struct Window {
    first: i32,
    last: i32,
    size: i32,
}
fn window(o: u32, dim: u32) -> Window {
    let size = p.size[dim];
    let pooled = p.pooled[dim];
    let first = i32(o * size / pooled);
    let last = i32(((o + 1u) * size + pooled - 1u) / pooled);
    return Window(first, last, last - first);
}
// The first and the last window that may cover a place of x.
fn windows_over(i: u32, dim: u32) -> vec2<i32> {
    let size = p.size[dim];
    let pooled = p.pooled[dim];
    return vec2(i32(i * pooled / size), i32(((i + 1u) * pooled + size - 1u) / size) - 1);
}
