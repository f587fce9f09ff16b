fn store_four_$NAME(i: u32, value: vec4<$NATIVE>) {
    $NAME[i / 4u] = value;
}
