fn store_$NAME(i: u32, value: $NATIVE) {
    let shift = i % $LANESu * $BITSu;
    atomicAnd(&$NAME[i / $LANESu], ~(LANE_MASK_$BITS << shift));
    atomicOr(&$NAME[i / $LANESu], encode_$DTYPE(value) << shift);
}
