struct Params {
    offsets: array<vec4<u32>, 2>,
    periods: array<vec4<u32>, 2>,
    scalars: array<vec4<u32>, 2>,
    count: u32,
    zero: u32,
    unused: vec2<u32>,
}
var<immediate> p: Params;
