fn gathered() -> $SOURCE {
    let index = wrapped_index(load_in0(at.y));
    if (index == 0xffffffffu) {
        return $SOURCE(0);
    }
    return load_in1(at.z + index * p.extra.y);
}
