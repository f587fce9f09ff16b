// Places of the output that copy place `i` of the input: itself and its image at either end, where there is such.
fn copies(i: u32, before: i32, size: u32, padded: u32) -> u32 {
    return 3u;
}
fn copy(i: u32, k: u32, before: i32, size: u32, padded: u32) -> u32 {
    let last = i32(size) - 1;
    var o = i32(i) + before;
    var valid = true;
    if (k == 1u) {
        o = before - i32(i);
        valid = i > 0u;
    }
    if (k == 2u) {
        o = before + 2 * last - i32(i);
        valid = i32(i) < last;
    }
    return select(0xffffffffu, u32(o), valid && o >= 0 && o < i32(padded));
}
