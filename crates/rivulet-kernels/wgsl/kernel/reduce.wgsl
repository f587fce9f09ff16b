// Result `o` of p.kept * p.chunks: part `o / kept` of the elements that fall together into place `o % kept`.
fn kept_place(o: u32) -> u32 {
    var rest = o % p.kept;
    var at = p.offsets.z;
    for (var d = 0u; d + 1u < p.kept_rank; d++) {
        let next = rest / p.kept_shape[d];
        at += (rest - next * p.kept_shape[d]) * p.kept_strides[d];
        rest = next;
    }
    return at + rest * p.kept_strides[p.kept_rank - 1u];
}
fn place(base: u32, r: u32) -> u32 {
    var rest = r;
    var at = base;
    for (var d = 0u; d + 1u < p.rank; d++) {
        let next = rest / p.shape[d];
        at += (rest - next * p.shape[d]) * p.strides[d];
        rest = next;
    }
    return at + rest * p.strides[p.rank - 1u];
}
fn mapped(base: u32, r: u32) -> $A {
    let x = load_x(place(base, r));
    return $MAP;
}
$FOLD
