// `start` is the first element of a word, and no other element lives in the last word.
fn units_$NAME(start: u32, count: u32) -> u32 {
    return (count + $LANESu - 1u) / $LANESu;
}
fn put_$NAME(unit: u32, start: u32, count: u32) {
    var word = 0u;
    for (var lane = 0u; lane < $LANESu; lane++) {
        let e = unit * $LANESu + lane;
        if (e < count) {
            locate(e);
            word |= encode_$DTYPE(element(e)) << (lane * $BITSu);
        }
    }
    $NAME[start / $LANESu + unit] = word;
}
