fn store_four_$NAME(i: u32, value: vec4<$NATIVE>) {
    $NAME[i / 4u] = vec2<u32>(
        encode_$DTYPE(value.x) | (encode_$DTYPE(value.y) << 16u),
        encode_$DTYPE(value.z) | (encode_$DTYPE(value.w) << 16u),
    );
}
