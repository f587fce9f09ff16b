struct Params {
    // values, indices, x
    offsets: vec4<u32>,
    rows: u32,
    size: u32,
    inner: u32,
    keep: u32,
    width: u32,
    runs: u32,
}
var<immediate> p: Params;
