// The word that holds the element is exchanged until nobody was in between. Floats join in no fixed order.
fn change(i: u32, value: $T) {
    let word = i / $LANESu;
    let shift = i % $LANESu * $BITSu;
    var before = atomicLoad(&out[word]);
    loop {
        let joined = $ENCODE($JOIN($DECODE(before >> shift), value));
        let after = (before & ~($MASK << shift)) | ((joined & $MASK) << shift);
        let exchange = atomicCompareExchangeWeak(&out[word], before, after);
        if (exchange.exchanged) {
            break;
        }
        before = exchange.old_value;
    }
}
