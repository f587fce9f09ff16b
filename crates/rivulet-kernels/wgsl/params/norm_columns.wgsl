struct Params {
    // gradients of weight and bias, gradient of the output, x
    offsets: vec4<u32>,
    // mean, rstd
    stats: vec2<u32>,
    rows: u32,
    size: u32,
    chunk: u32,
}
var<immediate> p: Params;
