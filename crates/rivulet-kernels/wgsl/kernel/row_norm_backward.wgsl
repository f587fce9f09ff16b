// x is the gradient of the output, y the input. With the normalised z = (y - mean) rstd and the gradient g of z:
// rstd (g - mean(g) - z mean(g z)). Without centring the mean of g stays.
var<private> center: f32;
var<private> inverse: f32;

fn scaled_gradient(e: u32) -> f32 {
    return $SCALED_GRADIENT;
}
fn normalised(e: u32) -> f32 {
    return (load_y(base.z + e) - center) * inverse;
}
fn statistics() {
    center = $MEAN;
    inverse = load_rstd(p.stats.y + row);
    var sum = 0.0;
    var product = 0.0;
    for (var e = lane; e < p.size; e += $THREADSu) {
        let g = scaled_gradient(e);
        sum += g;
        product = fma(g, normalised(e), product);
    }
    var mean = 0.0;
    if ($CENTERED) {
        mean = row_sum(sum) / f32(p.size);
    }
    stat = vec2<f32>(mean, row_sum(product) / f32(p.size));
}
fn row_element(e: u32) -> f32 {
    return inverse * (scaled_gradient(e) - stat.x - normalised(e) * stat.y);
}
fn finish_row() {
}
