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
    // of each further input of the chain, from the second component on
    tail_offsets: vec4<u32>,
    tail_periods: vec4<u32>,
    scalars: array<vec4<u32>, 2>,
    zero: u32,
}
var<immediate> p: Params;
