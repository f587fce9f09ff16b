// An index counts from the end where it is negative; what lies outside is marked by 0xffffffff.
fn wrapped_index(i: $INDEX) -> u32 {
    let size = $INDEX(p.extra.x);
    let from_start = select(i, i + size, i < $INDEX(0));
    return select(u32(from_start), 0xffffffffu, from_start < $INDEX(0) || from_start >= size);
}
