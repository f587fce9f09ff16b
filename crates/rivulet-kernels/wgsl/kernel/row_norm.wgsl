// Mean, then the mean square of what is left: exact where sums of squares would cancel. What rounding the mean left over
// is the mean of what is left, and goes too.
var<private> left_over: f32;

fn statistics() {
    var mean = 0.0;
    if ($CENTERED) {
        var sum = 0.0;
        for (var e = lane; e < p.size; e += $THREADSu) {
            sum += load_x(base.y + e);
        }
        mean = row_sum(sum) / f32(p.size);
    }
    var rest = 0.0;
    var squares = 0.0;
    for (var e = lane; e < p.size; e += $THREADSu) {
        let d = load_x(base.y + e) - mean;
        rest += d;
        squares = fma(d, d, squares);
    }
    left_over = 0.0;
    if ($CENTERED) {
        left_over = row_sum(rest) / f32(p.size);
    }
    let variance = row_sum(squares) / f32(p.size) - left_over * left_over;
    stat = vec2<f32>(mean, 1.0 / sqrt(variance + p.eps));
}
fn row_element(e: u32) -> f32 {
    return $SCALED;
}
fn finish_row() {
    $KEEP
}
