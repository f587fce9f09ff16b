fn load_four_$NAME(i: u32) -> vec4<$NATIVE> {
    return $NAME[i / 4u];
}
