$FOUR_Q
$FOUR_K
$FOUR_V
fn visible(query: u32, key: u32) -> bool {
    return key < p.keys$CAUSAL;
}
fn masked(score: f32, base: u32, query: u32, key: u32) -> f32 {
    if (!visible(query, key)) {
        return -inf_f32();
    }
    $MASK
}
fn store_four(to: u32, d: u32, value: vec4<f32>) {
    for (var j = 0u; j < 4u; j += $PAIRu) {
        if (d + j < p.dim) {
            let i = to + d + j;
            $STORE
        }
    }
}
