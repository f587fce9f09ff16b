// A row is one (sample, place) of `[samples, classes, inner]`. A target that is no class gives a NaN, since a kernel
// cannot refuse it.
fn is_class(target_class: i32) -> bool {
    return target_class >= 0 && target_class < i32(p.classes);
}
fn target_of(row: u32) -> i32 {
    return i32(load_goal(p.offsets.z + row));
}
fn weight_of(target_class: i32) -> f32 {
    if (target_class == p.ignored) {
        return 0.0;
    }
    if (!is_class(target_class)) {
        return nan_f32();
    }
    return $WEIGHT;
}
