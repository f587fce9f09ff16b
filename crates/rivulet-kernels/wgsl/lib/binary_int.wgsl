// Ops of two integers.
fn i_add(a: $C, b: $C) -> $C {
    return a + b;
}
fn i_sub(a: $C, b: $C) -> $C {
    return a - b;
}
// Scalar 1: alpha.
fn i_add_alpha(a: $C, b: $C) -> $C {
    return a + scalar_$C(1u) * b;
}
fn i_mul(a: $C, b: $C) -> $C {
    return a * b;
}
fn i_div_trunc(a: $C, b: $C) -> $C {
    return quotient_$C(a, b);
}
fn i_div_floor(a: $C, b: $C) -> $C {
    let q = quotient_$C(a, b);
    return select(q, q - $C(1), (a ^ b) < $C(0) && q * b != a);
}
fn i_fmod(a: $C, b: $C) -> $C {
    return a - quotient_$C(a, b) * b;
}
fn i_remainder(a: $C, b: $C) -> $C {
    return a - i_div_floor(a, b) * b;
}
// A negative exponent, which PyTorch allows only for tensors of them, gives 1, -1 or 0.
fn i_pow(a: $C, b: $C) -> $C {
    if (b < $C(0)) {
        if (a == $C(1)) {
            return a;
        }
        return select($C(0), select($C(1), $C(-1), (b & $C(1)) != $C(0)), a == $C(-1));
    }
    var result = $C(1);
    var base = a;
    var rest = b;
    while (rest > $C(0)) {
        if ((rest & $C(1)) != $C(0)) {
            result = result * base;
        }
        base = base * base;
        rest = rest >> 1u;
    }
    return result;
}
fn i_maximum(a: $C, b: $C) -> $C {
    return max(a, b);
}
fn i_minimum(a: $C, b: $C) -> $C {
    return min(a, b);
}
fn i_fmax(a: $C, b: $C) -> $C {
    return max(a, b);
}
fn i_fmin(a: $C, b: $C) -> $C {
    return min(a, b);
}
fn i_eq(a: $C, b: $C) -> bool {
    return a == b;
}
fn i_ne(a: $C, b: $C) -> bool {
    return a != b;
}
fn i_lt(a: $C, b: $C) -> bool {
    return a < b;
}
fn i_le(a: $C, b: $C) -> bool {
    return a <= b;
}
fn i_gt(a: $C, b: $C) -> bool {
    return a > b;
}
fn i_ge(a: $C, b: $C) -> bool {
    return a >= b;
}
fn i_logical_and(a: $C, b: $C) -> bool {
    return a != $C(0) && b != $C(0);
}
fn i_logical_or(a: $C, b: $C) -> bool {
    return a != $C(0) || b != $C(0);
}
fn i_logical_xor(a: $C, b: $C) -> bool {
    return (a != $C(0)) != (b != $C(0));
}
fn i_bitwise_and(a: $C, b: $C) -> $C {
    return a & b;
}
fn i_bitwise_or(a: $C, b: $C) -> $C {
    return a | b;
}
fn i_bitwise_xor(a: $C, b: $C) -> $C {
    return a ^ b;
}
// Shifts by the element type's width or more, and by a negative number, give what PyTorch gives: 0, or the sign.
fn i_shift_left(a: $C, b: $C) -> $C {
    let outside = b < $C(0) || b >= $C($WIDTH);
    return select(a << u32(select(b, $C(0), outside)), $C(0), outside);
}
fn i_shift_right(a: $C, b: $C) -> $C {
    let outside = b < $C(0) || b >= $C($WIDTH);
    return a >> u32(select(b, $C($WIDTH - 1), outside));
}
// b is the mask; scalar 1 the value.
fn i_masked_fill(a: $C, b: $C) -> $C {
    return select(a, scalar_$C(1u), b != $C(0));
}
fn i_gcd(a: $C, b: $C) -> $C {
    var x = i_abs(a);
    var y = i_abs(b);
    while (y != $C(0)) {
        let r = i_fmod(x, y);
        x = y;
        y = r;
    }
    return i_abs(x);
}
