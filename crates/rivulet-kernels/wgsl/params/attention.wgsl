struct Params {
    // Lists of four: out, q, k, v.
    offsets: vec4<u32>,
    batch_strides: vec4<u32>,
    head_strides: vec4<u32>,
    row_strides: vec4<u32>,
    // batch, head, query, key
    mask_strides: vec4<u32>,
    mask_offset: u32,
    queries: u32,
    keys: u32,
    dim: u32,
    group: u32,
    diagonal: i32,
    scale: f32,
    logsumexp_offset: u32,
    // batch, head, query; number of the mask
    logsumexp_strides: vec4<u32>,
}
var<immediate> p: Params;
