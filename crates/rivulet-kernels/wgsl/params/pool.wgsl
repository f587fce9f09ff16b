struct Params {
    // out, x; of a gradient: gradient of x, gradient of the output
    offsets: vec4<u32>,
    // of x and of the pooled side: depth, height, width; the last is unused, here and below
    size: vec4<u32>,
    pooled: vec4<u32>,
    // of a window
    kernel: vec4<u32>,
    stride: vec4<u32>,
    padding: vec4<i32>,
    dilation: vec4<u32>,
    count: u32,
    // of an average; 0 for the places of the window
    divisor: i32,
    include_padding: u32,
}
var<immediate> p: Params;
