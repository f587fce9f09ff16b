struct Params {
    kept_shape: vec4<u32>,
    kept_strides: vec4<u32>,
    shape: vec4<u32>,
    strides: vec4<u32>,
    // values, indices, input
    offsets: vec4<u32>,
    kept: u32,
    count: u32,
    chunk: u32,
    chunks: u32,
    kept_rank: u32,
    rank: u32,
    scale: f32,
    power: f32,
}
var<immediate> p: Params;
