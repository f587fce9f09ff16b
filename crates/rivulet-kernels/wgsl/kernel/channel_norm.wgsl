var<private> at: vec4<u32>;
fn locate(e: u32) {
    at = p.offsets + e;
}
fn element(e: u32) -> f32 {
    let c = e / p.places % p.channels;
    return $VALUE;
}
