// Mean first, then the squares of what is left: exact where sums of squares would cancel. Chunks are merged in the same
// way, each with the weight of its elements (T. F. Chan, G. H. Golub, R. J. LeVeque, 1979).
fn fold_sum(base: u32, first: u32, step: u32, end: u32) -> f32 {
    var total = 0.0;
    for (var r = first; r < end; r += step) {
        total = fma(mapped(base, r), $WEIGHT, total);
    }
    return total;
}
fn fold_squares(base: u32, first: u32, step: u32, end: u32, mean: f32) -> f32 {
    var total = 0.0;
    for (var r = first; r < end; r += step) {
        let d = mapped(base, r) - mean;
        total += fma(d * d, $WEIGHT, $SPREAD);
    }
    return total;
}
$MAIN
    let start = $START;
    let end = $END;
    let base = kept_place(o);
    let mean = $MEAN / f32($MEMBERS);
    let squares = $SQUARES;
    if ($WRITES) {
        $STORE
    }
}
