// Maximum and sum of exponentials in one pass over the row: whenever the maximum rises, the sum is scaled down.
fn statistics() {
    var highest = -inf_f32();
    var sum = 0.0;
    for (var e = lane; e < p.size; e += $THREADSu) {
        let x = load_x(base.y + e * p.inner);
        if (x > highest) {
            sum = sum * exp_f32(highest - x) + 1.0;
            highest = x;
        } else if (bitcast<u32>(x) != 0xff800000u) {
            sum += exp_f32(x - highest);
        }
    }
    let top = row_max(highest);
    // Nothing was added where all is -inf; the difference would be a NaN.
    let share = select(sum * exp_f32(highest - top), sum, bitcast<u32>(highest) == 0xff800000u);
    let total = row_sum(share);
    let sum_of_all = select(total, nan_f32(), bitcast<u32>(top) == 0x7f800000u);
    stat = vec2<f32>(top, $DIVISOR);
}
fn row_element(e: u32) -> f32 {
    return $NORMALISED;
}
fn finish_row() {
}
