fn units_$NAME(start: u32, count: u32) -> u32 {
    return count;
}
fn put_$NAME(unit: u32, start: u32, count: u32) {
    locate(unit);
    store_$NAME(at.x, element(unit));
}
