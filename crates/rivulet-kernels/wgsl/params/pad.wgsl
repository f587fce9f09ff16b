struct Params {
    // out, x; of a gradient: gradient of x, gradient of the output
    offsets: vec4<u32>,
    // depth, height, width; the last is unused
    size: vec4<u32>,
    padded: vec4<u32>,
    before: vec4<i32>,
    count: u32,
}
var<immediate> p: Params;
