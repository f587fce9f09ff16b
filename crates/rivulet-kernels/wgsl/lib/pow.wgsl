// Powers: log2(|x|) and y log2(|x|) in two floats each, then 2^z. 1 ULP where operations round to nearest, 2 ULP
// elsewhere. After FreeBSD's e_powf.c (Sun Microsystems, I. L. Taylor), whose splits are done on bits and so
// survive any contraction.

// `x` without its lower 12 bits: products of two such are exact.
fn upper(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}
// x^y for positive finite x and finite y; NaN, infinity and signs are the caller's.
fn pow_positive(x: f32, y: f32) -> f32 {
    var bits = bitcast<u32>(x);
    var n = 0;
    if (bits < 0x00800000u) {
        bits = bitcast<u32>(f32(bits));
        n = -149;
    }
    n += i32(bits >> 23u) - 127;
    let fraction = bits & 0x007fffffu;
    bits = fraction | 0x3f800000u;
    // Interval: |m - 1|, |m - 1.5| or |m - 2| small; k tells 1 from 1.5.
    var k = false;
    if (fraction > 0x1cc471u) {
        if (fraction < 0x5db3d7u) {
            k = true;
        } else {
            n += 1;
            bits -= 0x00800000u;
        }
    }
    let m = bitcast<f32>(bits);
    let center = select(1.0, 1.5, k);
    let u = m - center;
    let v = 1.0 / (m + center);
    let s = u * v;
    let s_h = upper(s);
    let t_bits = ((bits >> 1u) & 0xfffff000u) | 0x20000000u;
    let t_h0 = bitcast<f32>(t_bits + 0x00400000u + select(0u, 0x00200000u, k));
    let t_l0 = m - (t_h0 - center);
    let s_l = v * ((u - s_h * t_h0) - s_h * t_l0);
    let s2 = s * s;
    var r = 2.0697501302e-1;
    r = fma(r, s2, 2.3066075146e-1);
    r = fma(r, s2, 2.7272811532e-1);
    r = fma(r, s2, 3.3333334327e-1);
    r = fma(r, s2, 4.2857143283e-1);
    r = fma(r, s2, 6.0000002384e-1);
    r = s2 * s2 * r + s_l * (s_h + s);
    let s_h2 = s_h * s_h;
    let t_h = upper(3.0 + s_h2 + r);
    let t_l = r - ((t_h - 3.0) - s_h2);
    let a = s_h * t_h;
    let b = s_l * t_h + t_l * s;
    let p_h = upper(a + b);
    let p_l = b - (p_h - a);
    // 2/(3 ln 2) = 0.9619140625 - 1.1736857402e-4.
    let z_h = 9.6191406250e-1 * p_h;
    let z_l = -1.1736857402e-4 * p_h + p_l * 9.6179670095e-1 + select(0.0, 1.56322085e-6, k);
    let log_n = f32(n);
    let dp_h = select(0.0, 5.84960938e-1, k);
    let t1 = upper(((z_h + z_l) + dp_h) + log_n);
    let t2 = z_l - (((t1 - log_n) - dp_h) - z_h);
    let y1 = upper(y);
    let q_l = (y - y1) * t1 + y * t2;
    let q_h = y1 * t1;
    let z = q_l + q_h;
    if (z >= 128.0 && (z > 128.0 || q_l + 4.2995665694e-8 > z - q_h)) {
        return inf_f32();
    }
    if (z < -150.0) {
        return 0.0;
    }
    let whole = round(z);
    let rest_h = q_h - whole;
    let e_h = upper(q_l + rest_h);
    let e_l = q_l - (e_h - rest_h);
    let w_h = e_h * 6.93145752e-1;
    let w_l = e_l * 6.9314718246e-1 + e_h * 1.42860654e-6;
    let w = w_h + w_l;
    let w_rest = w_l - (w - w_h);
    let t = w * w;
    var c = 4.1381369442e-8;
    c = fma(c, t, -1.6533901999e-6);
    c = fma(c, t, 6.6137559770e-5);
    c = fma(c, t, -2.7777778450e-3);
    c = fma(c, t, 1.6666667163e-1);
    let d = w - t * c;
    let e = (w * d) / (d - 2.0) - (w_rest + w * w_rest);
    return scale_pow2(1.0 - (e - w), i32(whole));
}
// 0: not whole, 1: odd, 2: even.
fn parity(y: f32) -> u32 {
    let bits = bitcast<u32>(y) & 0x7fffffffu;
    if (bits >= 0x4b800000u) {
        return 2u;
    }
    if (bits < 0x3f800000u) {
        return select(0u, 2u, bits == 0u);
    }
    let whole = u32(abs(y));
    return select(0u, 2u - (whole & 1u), f32(whole) == abs(y));
}
fn pow_f32(x: f32, y: f32) -> f32 {
    if (is_zero(y) || bitcast<u32>(x) == 0x3f800000u) {
        return 1.0;
    }
    if (is_nan(x) || is_nan(y)) {
        return nan_f32();
    }
    let magnitude = abs(x);
    if (is_inf(y)) {
        if (magnitude == 1.0) {
            return 1.0;
        }
        return select(0.0, inf_f32(), (magnitude > 1.0) == (sign_bit(y) == 0u));
    }
    let kind = parity(y);
    let negative = sign_bit(x) != 0u;
    var value = 0.0;
    if (is_zero(x) || is_inf(x)) {
        value = select(0.0, inf_f32(), is_zero(x) == (sign_bit(y) != 0u));
    } else if (negative && kind == 0u) {
        return nan_f32();
    } else {
        value = pow_positive(magnitude, y);
    }
    return select(value, -value, negative && kind == 1u);
}
