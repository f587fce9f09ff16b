fn load_four_$NAME(i: u32) -> vec4<f32> {
    return $NAME[i / 4u];
}
