fn load_$NAME(i: u32) -> $NATIVE {
    return decode_$DTYPE($NAME[i / $LANESu] >> (i % $LANESu * $BITSu));
}
