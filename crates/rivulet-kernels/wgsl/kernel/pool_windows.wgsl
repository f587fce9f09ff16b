// Places of x that a window covers in one dimension: from `first` on, `last` excluded. `size` counts padding too.
struct Window {
    first: i32,
    last: i32,
    size: i32,
}
fn window(o: u32, dim: u32) -> Window {
    let size = i32(p.size[dim]);
    let start = i32(o * p.stride[dim]) - p.padding[dim];
    let step = i32(p.dilation[dim]);
    let skipped = (max(-start, 0) + step - 1) / step * step;
    let reach = (i32(p.kernel[dim]) - 1) * step + 1;
    let padded = min(start + i32(p.kernel[dim]), size + p.padding[dim]) - start;
    return Window(start + skipped, min(start + reach, size), padded);
}
// The first and the last window that may cover a place of x, without dilation.
fn windows_over(i: u32, dim: u32) -> vec2<i32> {
    let place = i32(i) + p.padding[dim];
    let stride = i32(p.stride[dim]);
    let first = max(place - i32(p.kernel[dim]) + stride, 0) / stride;
    return vec2(first, min(place / stride, i32(p.pooled[dim]) - 1));
}
