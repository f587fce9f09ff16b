// Between an element's bits (the low ones of a word; what is above them is ignored) and the value computed with.
fn decode_f16(bits: u32) -> f32 {
    return f32(bitcast<f16>(u16(bits & 0xffffu)));
}
fn encode_f16(x: f32) -> u32 {
    // Hardware rounds to nearest even and overflows to infinity; a NaN is put together by hand, since a compiler may
    // assume that none is converted.
    let bits = u32(bitcast<u16>(f16(x)));
    return select(bits, 0x7e00u | (sign_bit(x) >> 16u), is_nan(x));
}
fn decode_bf16(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}
fn encode_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x40u, is_nan(x));
}
fn decode_i16(bits: u32) -> i32 {
    return bitcast<i32>(bits << 16u) >> 16u;
}
fn encode_i16(x: i32) -> u32 {
    return bitcast<u32>(x) & 0xffffu;
}
fn decode_i8(bits: u32) -> i32 {
    return bitcast<i32>(bits << 24u) >> 24u;
}
fn encode_i8(x: i32) -> u32 {
    return bitcast<u32>(x) & 0xffu;
}
fn decode_u8(bits: u32) -> i32 {
    return bitcast<i32>(bits & 0xffu);
}
fn encode_u8(x: i32) -> u32 {
    return bitcast<u32>(x) & 0xffu;
}
fn decode_bool(bits: u32) -> i32 {
    return select(0, 1, (bits & 0xffu) != 0u);
}
fn encode_bool(x: i32) -> u32 {
    return select(0u, 1u, x != 0);
}
