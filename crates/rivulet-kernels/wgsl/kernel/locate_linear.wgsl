fn locate(e: u32) {
    at = p.offsets + e;
}
