fn element(e: u32) -> f32 {
    let width = source(e % p.resampled.z, 2u);
    let height = source(e / p.resampled.z % p.resampled.y, 1u);
    let plane = e / (p.resampled.z * p.resampled.y);
    let depth = source(plane % p.resampled.x, 0u);
    let start = plane / p.resampled.x * p.size.x;
    var sum = 0.0;
    for (var corner = 0u; corner < 8u; corner++) {
        let far = vec3<bool>((corner & 4u) != 0u, (corner & 2u) != 0u, (corner & 1u) != 0u);
        let shares = vec3(depth.share, height.share, width.share);
        let weights = select(1.0 - shares, shares, far);
        let weight = weights.x * weights.y * weights.z;
        // A place beyond the edge stands for its neighbour and weighs nothing.
        if (weight != 0.0) {
            let d = select(depth.first, depth.second, far.x);
            let h = select(height.first, height.second, far.y);
            let w = select(width.first, width.second, far.z);
            sum += weight * load_x(p.offsets.y + ((start + d) * p.size.y + h) * p.size.z + w);
        }
    }
    return sum;
}
