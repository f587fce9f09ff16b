// Neighbours in the first and the last word belong to others, who may write them at the same time: their bits are
// not stored. One atomic step for the reason given at `store_scattered`.
fn units_$NAME(start: u32, count: u32) -> u32 {
    return (start % $LANESu + count + $LANESu - 1u) / $LANESu;
}
fn put_$NAME(unit: u32, start: u32, count: u32) {
    let lead = start % $LANESu;
    var word = 0u;
    var mask = 0u;
    for (var lane = 0u; lane < $LANESu; lane++) {
        // Below the run this wraps round to a number above `count`.
        let e = unit * $LANESu + lane - lead;
        if (e < count) {
            locate(e);
            word |= encode_$DTYPE(element(e)) << (lane * $BITSu);
            mask |= LANE_MASK_$BITS << (lane * $BITSu);
        }
    }
    let to = start / $LANESu + unit;
    if (mask == 0xffffffffu) {
        atomicStore(&$NAME[to], word);
    } else {
        atomicXor(&$NAME[to], (atomicLoad(&$NAME[to]) ^ word) & mask);
    }
}
