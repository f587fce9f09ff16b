struct Params {
    // out, x; of a gradient: gradient of x, gradient of the output
    offsets: vec4<u32>,
    // of x and of the resampled side: depth, height, width; the last is unused, here and below
    size: vec4<u32>,
    resampled: vec4<u32>,
    // places of x for each of the resampled side
    scale: vec4<f32>,
    count: u32,
}
var<immediate> p: Params;
