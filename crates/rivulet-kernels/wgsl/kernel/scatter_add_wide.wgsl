// 64 bits as two words: the sum of the low ones tells the carry, whoever comes in between.
fn change(i: u32, value: $T) {
    let low = u32(value & i64(0xffffffffu));
    let high = u32((value >> 32u) & i64(0xffffffffu));
    let before = atomicAdd(&out[2u * i], low);
    let carry = select(0u, 1u, before + low < before);
    atomicAdd(&out[2u * i + 1u], high + carry);
}
