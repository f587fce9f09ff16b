// The first of the best, with its place; a NaN is better than all else.
struct Best {
    value: $A,
    index: u32,
}
fn better(a: Best, b: Best) -> Best {
    if (b.index == 0xffffffffu) {
        return a;
    }
    if (a.index == 0xffffffffu) {
        return b;
    }
    if (beats(b.value, a.value) || (!beats(a.value, b.value) && b.index < a.index)) {
        return b;
    }
    return a;
}
fn beats(a: $A, b: $A) -> bool {
    return $BEATS;
}
fn fold(base: u32, first: u32, step: u32, end: u32) -> Best {
    var best = Best($A(0), 0xffffffffu);
    for (var r = first; r < end; r += step) {
        best = better(best, Best(mapped(base, r), $PLACE));
    }
    return best;
}
$MAIN
    let start = o / p.kept * p.chunk;
    let end = min(start + p.chunk, p.count);
    let base = kept_place(o);
    let best = $TOTAL;
    if ($WRITES) {
        $STORE
    }
}
