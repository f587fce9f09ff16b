// x is the gradient of the output, y the output.
fn statistics() {
    var sum = 0.0;
    for (var e = lane; e < p.size; e += $THREADSu) {
        let i = e * p.inner;
        sum += $TERM;
    }
    stat = vec2<f32>(row_sum(sum), 0.0);
}
fn row_element(e: u32) -> f32 {
    return $GRADIENT;
}
fn finish_row() {
}
