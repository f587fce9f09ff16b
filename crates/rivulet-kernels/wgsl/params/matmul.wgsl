struct Params {
    // out, a, b, bias; of a join: out, parts, residual, bias
    offsets: vec4<u32>,
    outer_strides: vec4<u32>,
    batch_strides: vec4<u32>,
    // a: row, k; b: k, column
    strides: vec4<u32>,
    // out: row; bias: row, column; sums: part, or residual: first element
    edges: vec4<u32>,
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    alpha: f32,
    beta: f32,
    parts: u32,
    chunk: u32,
}
var<immediate> p: Params;
