struct Params {
    offsets: vec4<u32>,
    scalars: vec4<u32>,
    extra: vec2<u32>,
    count: u32,
    rank: u32,
$STRIDED_FIELDS}
var<immediate> p: Params;
