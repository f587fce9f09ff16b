fn load_four_$NAME(i: u32) -> vec4<$NATIVE> {
    let words = $NAME[i / 4u];
    return vec4<$NATIVE>(
        decode_$DTYPE(words.x),
        decode_$DTYPE(words.x >> 16u),
        decode_$DTYPE(words.y),
        decode_$DTYPE(words.y >> 16u),
    );
}
