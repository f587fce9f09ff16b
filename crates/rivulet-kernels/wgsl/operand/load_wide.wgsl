fn load_$NAME(i: u32) -> $NATIVE {
    return $NAME[i];
}
