// The elements `first`, `first + step`, ... below `end`, four at a time so that as many loads are under way.
fn fold(base: u32, first: u32, step: u32, end: u32) -> $A {
    var total = $IDENTITY;
    var r = first;
    for (; r + 3u * step < end; r += 4u * step) {
        let low = $COMBINE(mapped(base, r), mapped(base, r + step));
        let high = $COMBINE(mapped(base, r + 2u * step), mapped(base, r + 3u * step));
        total = $COMBINE(total, $COMBINE(low, high));
    }
    for (; r < end; r += step) {
        total = $COMBINE(total, mapped(base, r));
    }
    return total;
}
$MAIN
    let start = o / p.kept * p.chunk;
    let end = min(start + p.chunk, p.count);
    let base = kept_place(o);
    let folded = $TOTAL;
    if ($WRITES) {
        let total = folded;
        store_out(p.offsets.x + o, $FINISH);
    }
}
