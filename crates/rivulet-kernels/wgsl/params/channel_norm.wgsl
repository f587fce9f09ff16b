struct Params {
    // out, x, weight, bias
    offsets: vec4<u32>,
    // mean, variance or rstd
    stats: vec2<u32>,
    count: u32,
    channels: u32,
    places: u32,
    eps: f32,
}
var<immediate> p: Params;
