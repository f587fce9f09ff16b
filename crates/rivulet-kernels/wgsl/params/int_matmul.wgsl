struct Params {
    // out, a, b; the last is unused, here and below
    offsets: vec4<u32>,
    batch_strides: vec4<u32>,
    // of a along rows and k, of b along k and columns
    strides: vec4<u32>,
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
}
var<immediate> p: Params;
