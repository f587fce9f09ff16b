struct Params {
    // out, sorted rows, values, order
    offsets: vec4<u32>,
    count: u32,
    size: u32,
    values: u32,
}
var<immediate> p: Params;
