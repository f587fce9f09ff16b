struct Params {
    // out, x; the rest is unused
    offsets: vec4<u32>,
    // of the image: height, width, here and below
    size: vec2<u32>,
    blocks: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    padding: vec2<i32>,
    dilation: vec2<u32>,
    count: u32,
    channels: u32,
}
var<immediate> p: Params;
