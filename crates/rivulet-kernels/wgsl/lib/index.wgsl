// An index counts from the end where it is negative; what lies outside is marked by 0xffffffff.
fn wrapped_index(i: $INDEX) -> u32 {
    let size = $INDEX(p.extra.x);
    let from_start = select(i, i + size, i < $INDEX(0));
    return select(u32(from_start), 0xffffffffu, from_start < $INDEX(0) || from_start >= size);
}
// One more dimension of a place that several indices name. Extra words: the dimension's size and stride. What lies
// outside is marked by -2^31, which no place of a tensor is.
fn i_join_index(place: $C, index: $C) -> $C {
    let size = unsigned_$C(p.extra.x);
    let from_start = select(index, index + size, index < $C(0));
    let joined = place + from_start * $C(bitcast<i32>(p.extra.y));
    let outside = place < $C(0) || from_start < $C(0) || from_start >= size;
    return select(joined, $C(-2147483647 - 1), outside);
}
