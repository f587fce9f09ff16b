// One atomic step, whose bits depend on the value: what computes the value has read all it reads by then, also where it
// reads this very element through another binding. (With and-then-or a compiler may move such a read between the two.)
// Neighbours in the word belong to others, who may write them at the same time; the element belongs to one invocation.
fn store_$NAME(i: u32, value: $NATIVE) {
    let shift = i % $LANESu * $BITSu;
    let word = encode_$DTYPE(value) << shift;
    let at = i / $LANESu;
    atomicXor(&$NAME[at], (atomicLoad(&$NAME[at]) ^ word) & (LANE_MASK_$BITS << shift));
}
