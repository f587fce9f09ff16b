fn store_$NAME(i: u32, value: $NATIVE) {
    $NAME[i] = value;
}
