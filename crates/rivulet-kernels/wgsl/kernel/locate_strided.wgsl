// Strides wrap round: a negative one is added as its two's complement.
fn locate(e: u32) {
    var rest = e;
    at = p.offsets;
    for (var d = 0u; d + 1u < p.rank; d++) {
        let size = p.shape[d];
        let next = rest / size;
        at += (rest - next * size) * p.strides[d];
        rest = next;
    }
    at += rest * p.strides[p.rank - 1u];
}
