// Places of the output that copy place `i` of the input: one after the other, many at either end.
fn first_copy(i: u32, before: i32, padded: u32) -> i32 {
    return select(max(i32(i) + before, 0), 0, i == 0u);
}
fn copies(i: u32, before: i32, size: u32, padded: u32) -> u32 {
    let end = select(min(i32(i) + before + 1, i32(padded)), i32(padded), i + 1u == size);
    return u32(max(end - first_copy(i, before, padded), 0));
}
fn copy(i: u32, k: u32, before: i32, size: u32, padded: u32) -> u32 {
    return u32(first_copy(i, before, padded)) + k;
}
