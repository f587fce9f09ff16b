fn load_four_$NAME(i: u32) -> vec4<f32> {
    let words = $NAME[i / 4u];
    return vec4<f32>(
        decode_$DTYPE(words.x),
        decode_$DTYPE(words.x >> 16u),
        decode_$DTYPE(words.y),
        decode_$DTYPE(words.y >> 16u),
    );
}
