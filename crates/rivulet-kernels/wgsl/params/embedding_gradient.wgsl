struct Params {
    // out, sorted, order, gradient
    offsets: vec4<u32>,
    count: u32,
    size: u32,
    padding: i32,
}
var<immediate> p: Params;
