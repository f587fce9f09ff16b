struct Params {
    out: u32,
    words: u32,
    rows: u32,
    unused: u32,
    // first word of each row, and the source where there are several
    first: array<vec4<u32>, 7>,
}
var<immediate> p: Params;
