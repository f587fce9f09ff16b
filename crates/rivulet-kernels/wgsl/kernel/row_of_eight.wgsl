// Word e of the row that begins where `first` says: the source in the lowest three bits, its first word in the others.
fn load_row(first: u32, e: u32) -> i32 {
    let at = (first >> 3u) + e;
    switch (first & 7u) {
        case 0u: { return load_source0(at); }
        case 1u: { return load_source1(at); }
        case 2u: { return load_source2(at); }
        case 3u: { return load_source3(at); }
        case 4u: { return load_source4(at); }
        case 5u: { return load_source5(at); }
        case 6u: { return load_source6(at); }
        default: { return load_source7(at); }
    }
}
