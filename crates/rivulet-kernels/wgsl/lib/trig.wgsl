// Sine, cosine, tangent. Polynomials: Cephes, sinf.c and tanf.c (S. Moshier).

// x = quadrant pi/2 + r, |r| <= pi/4.
struct Reduced {
    r: f32,
    quadrant: u32,
}
const QUARTERS_MAX: f32 = 8192.0;
// The bits of 2/pi, after a point that stands before the first word.
const TWO_OVER_PI = array<u32, 7>(0u, 0x28be60dbu, 0x9391054au, 0x7f09d5f4u, 0x7d4d3770u, 0x36d8a566u, 0x4f10e410u);

// Upper and lower word of a product.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 16u);
    let cross = a0 * b1 + (middle & 0xffffu);
    return vec2<u32>(a1 * b1 + (middle >> 16u) + (cross >> 16u), a * b);
}
// Any finite x: the product with 96 bits of 2/pi from where they matter (M. Payne, R. Hanek; after N. Juffa).
fn reduce_far(x: f32) -> Reduced {
    var table = TWO_OVER_PI;
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    let exponent = (bits >> 23u) - 126u;
    let significand = (bits << 8u) | 0x80000000u;
    let word = exponent >> 5u;
    let shift = exponent & 31u;
    var high = table[word];
    var middle = table[word + 1u];
    var low = table[word + 2u];
    if (shift > 0u) {
        high = (high << shift) | (middle >> (32u - shift));
        middle = (middle << shift) | (low >> (32u - shift));
        low = (low << shift) | (table[word + 3u] >> (32u - shift));
    }
    // The product in 2.62 fixed point: what is above 4 turns of the quadrant falls off the top.
    let third = wide_product(significand, low).x;
    let second = wide_product(significand, middle);
    var p_low = second.y + third;
    var p_high = significand * high + second.x + select(0u, 1u, p_low < third);
    var quadrant = p_high >> 30u;
    p_high = p_high & 0x3fffffffu;
    var negative = false;
    if ((p_high & 0x20000000u) != 0u) {
        // 2^62 - p
        quadrant += 1u;
        negative = true;
        p_low = ~p_low + 1u;
        p_high = 0x40000000u - p_high - select(1u, 0u, p_low == 0u);
    }
    // 32 leading bits keep the full precision of a float.
    let zeros = countLeadingZeros(p_high);
    var lead = p_high;
    if (zeros > 0u && zeros < 32u) {
        lead = (p_high << zeros) | (p_low >> (32u - zeros));
    } else if (zeros == 32u) {
        lead = p_low;
    }
    var r = f32(lead) * pow2i(-30 - i32(zeros)) * 1.57079632679489662;
    if (negative) {
        r = -r;
    }
    if (sign_bit(x) != 0u) {
        return Reduced(-r, 0u - quadrant);
    }
    return Reduced(r, quadrant);
}
fn reduce_quarters(x: f32) -> Reduced {
    let n = round(x * 0.636619772367581343);
    if (!(abs(n) <= QUARTERS_MAX)) {
        return reduce_far(x);
    }
    // pi/2 in parts of 8, 11 and 24 bits: the first two products are exact, fused or not.
    let r = ((x - n * 1.5703125) - n * 4.837512969970703125e-4) - n * 7.54978995489188216e-8;
    return Reduced(r, bitcast<u32>(i32(n)));
}
fn sin_reduced(r: f32) -> f32 {
    let z = r * r;
    let y = fma(fma(-1.9515295891e-4, z, 8.3321608736e-3), z, -1.6666654611e-1);
    return fma(y * z, r, r);
}
fn cos_reduced(r: f32) -> f32 {
    let z = r * r;
    let y = fma(fma(2.443315711809948e-5, z, -1.388731625493765e-3), z, 4.166664568298827e-2);
    return fma(y * z, z, -0.5 * z) + 1.0;
}
fn sin_of(reduced: Reduced) -> f32 {
    let y = select(sin_reduced(reduced.r), cos_reduced(reduced.r), (reduced.quadrant & 1u) != 0u);
    return select(y, -y, (reduced.quadrant & 2u) != 0u);
}
// sin and cos: 2 ULP for |x| < 100; beyond, 2 ULP or 2^-24 absolute, whichever is larger. tan: 4 ULP there.
fn sin_f32(x: f32) -> f32 {
    if (!is_finite(x)) {
        return nan_f32();
    }
    return select(sin_of(reduce_quarters(x)), x, is_zero(x));
}
fn cos_f32(x: f32) -> f32 {
    if (!is_finite(x)) {
        return nan_f32();
    }
    let reduced = reduce_quarters(x);
    return sin_of(Reduced(reduced.r, reduced.quadrant + 1u));
}
fn tan_f32(x: f32) -> f32 {
    if (!is_finite(x)) {
        return nan_f32();
    }
    let reduced = reduce_quarters(x);
    let z = reduced.r * reduced.r;
    var y = 9.38540185543e-3;
    y = fma(y, z, 3.11992232697e-3);
    y = fma(y, z, 2.44301354525e-2);
    y = fma(y, z, 5.34112807005e-2);
    y = fma(y, z, 1.33387994085e-1);
    y = fma(y, z, 3.33331568548e-1);
    let t = fma(y * z, reduced.r, reduced.r);
    let value = select(t, -1.0 / t, (reduced.quadrant & 1u) != 0u);
    return select(value, x, is_zero(x));
}
