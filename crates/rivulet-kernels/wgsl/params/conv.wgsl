struct Params {
    // batch, channel, row, column
    out_strides: vec4<u32>,
    x_strides: vec4<u32>,
    // output channel, input channel, row, column
    weight_strides: vec4<u32>,
    // out, x, weight, bias
    offsets: vec4<u32>,
    // height, width
    x_size: vec2<u32>,
    out_size: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    padding: vec2<u32>,
    dilation: vec2<u32>,
    batch: u32,
    in_channels: u32,
    out_channels: u32,
}
var<immediate> p: Params;
