struct Params {
    // out, x or gradient, target, weight
    offsets: vec4<u32>,
    // sum of the weights
    total: u32,
    rows: u32,
    classes: u32,
    inner: u32,
    ignored: i32,
}
var<immediate> p: Params;
