// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC 2011).
// Scalars: the key in two words, the counter's start in two. Elements 4k..4k+3 share block `start + k`, so that a
// stream of numbers depends on the seed alone, not on how a kernel is laid out.
fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        let a = wide_product(0xd2511f53u, c.x);
        let b = wide_product(0xcd9e8d57u, c.z);
        c = vec4<u32>(b.x ^ c.y ^ k.x, b.y, a.x ^ c.w ^ k.y, a.y);
        k = k + vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}
fn random_block(block: u32) -> vec4<u32> {
    let low = p.scalars.z + block;
    let high = p.scalars.w + select(0u, 1u, low < block);
    return philox(vec4<u32>(low, high, 0u, 0u), p.scalars.xy);
}
fn random_word(e: u32) -> u32 {
    let block = random_block(e / 4u);
    return block[e % 4u];
}
// In [0, 1): 24 bits, so that 1 is never reached by rounding.
fn random_unit(e: u32) -> f32 {
    return f32(random_word(e) >> 8u) * 5.9604644775390625e-8;
}
// Extra words: lower bound, width. As many bits as the output holds, so that 1 is not reached by rounding either.
fn f_uniform(e: u32) -> f32 {
    let unit = f32(random_word(e) >> (32u - $DIGITSu)) * $STEP;
    return fma(unit, bitcast<f32>(p.extra.y), bitcast<f32>(p.extra.x));
}
// Extra words: mean, standard deviation. Box and Muller; elements 2k and 2k+1 share a pair of words.
fn f_normal(e: u32) -> f32 {
    let block = random_block(e / 4u);
    let pair = select(block.xy, block.zw, (e & 2u) != 0u);
    // In (0, 1], so that the logarithm is finite.
    let u = (f32(pair.x >> 8u) + 1.0) * 5.9604644775390625e-8;
    let angle = f32(pair.y >> 8u) * 3.74507028397e-7;
    let radius = sqrt(-2.0 * log_f32(u));
    let z = radius * select(cos_f32(angle), sin_f32(angle), (e & 1u) != 0u);
    return fma(z, bitcast<f32>(p.extra.y), bitcast<f32>(p.extra.x));
}
fn f_bernoulli(e: u32) -> f32 {
    return select(0.0, 1.0, random_unit(e) < bitcast<f32>(p.extra.x));
}
fn i_bernoulli(e: u32) -> $C {
    return $C(f_bernoulli(e));
}
// Extra word: rate. Halfway between the steps of 2^-23, so that neither 0 nor infinity comes out.
fn f_exponential(e: u32) -> f32 {
    return -log_f32((f32(random_word(e) >> 9u) + 0.5) * 1.1920928955078125e-7) / bitcast<f32>(p.extra.x);
}
// Extra words: lowest value, number of values (0 for 2^32). The upper half of a product is unbiased to 2^-32.
fn random_below(e: u32) -> u32 {
    let word = random_word(e);
    return select(wide_product(word, p.extra.y).x, word, p.extra.y == 0u);
}
fn i_randint(e: u32) -> $C {
    return $C(bitcast<i32>(p.extra.x)) + unsigned_$C(random_below(e));
}
fn f_randint(e: u32) -> f32 {
    return f32(bitcast<i32>(p.extra.x)) + f32(random_below(e));
}
// Extra words: probability of a zero, scale of the rest.
fn f_dropout(e: u32, x: f32) -> f32 {
    return select(x * bitcast<f32>(p.extra.y), 0.0, random_unit(e) < bitcast<f32>(p.extra.x));
}
