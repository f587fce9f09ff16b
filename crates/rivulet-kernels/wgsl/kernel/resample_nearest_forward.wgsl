fn element(e: u32) -> $C {
    let w = source(e % p.resampled.z, 2u);
    let h = source(e / p.resampled.z % p.resampled.y, 1u);
    let plane = e / (p.resampled.z * p.resampled.y);
    let d = source(plane % p.resampled.x, 0u);
    let outer = plane / p.resampled.x;
    return load_x(p.offsets.y + ((outer * p.size.x + d) * p.size.y + h) * p.size.z + w);
}
