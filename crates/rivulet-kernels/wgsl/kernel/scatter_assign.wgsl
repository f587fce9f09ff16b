fn change(i: u32, value: $T) {
    store_out(i, value);
}
