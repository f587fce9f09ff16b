// Word e of the row that begins at `first` of the source.
fn load_row(first: u32, e: u32) -> i32 {
    return load_source(first + e);
}
