struct Params {
    // out, x, weight or second input, bias
    offsets: vec4<u32>,
    rows: u32,
    size: u32,
    inner: u32,
    eps: f32,
    // mean, rstd
    stats: vec2<u32>,
    groups: u32,
    places: u32,
}
var<immediate> p: Params;
