fn loss_of(row: u32, target_class: i32, weight: f32) -> f32 {
    if (target_class == p.ignored || !is_class(target_class)) {
        return weight;
    }
    let at = row / p.inner * (p.classes * p.inner) + u32(target_class) * p.inner + row % p.inner;
    return -weight * load_x(p.offsets.y + at);
}
