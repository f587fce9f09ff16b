// Ops of one integer.
fn i_copy(x: $C) -> $C {
    return x;
}
fn i_neg(x: $C) -> $C {
    return $C(0) - x;
}
fn i_abs(x: $C) -> $C {
    return select(x, $C(0) - x, x < $C(0));
}
fn i_sign(x: $C) -> $C {
    return select($C(0), $C(1), x > $C(0)) - select($C(0), $C(1), x < $C(0));
}
fn i_square(x: $C) -> $C {
    return x * x;
}
fn i_floor(x: $C) -> $C {
    return x;
}
fn i_ceil(x: $C) -> $C {
    return x;
}
fn i_round(x: $C) -> $C {
    return x;
}
fn i_trunc(x: $C) -> $C {
    return x;
}
fn i_bitwise_not(x: $C) -> $C {
    return $C(-1) - x;
}
fn i_logical_not(x: $C) -> bool {
    return x == $C(0);
}
fn i_isnan(x: $C) -> bool {
    return false;
}
fn i_isinf(x: $C) -> bool {
    return false;
}
fn i_isposinf(x: $C) -> bool {
    return false;
}
fn i_isneginf(x: $C) -> bool {
    return false;
}
fn i_isfinite(x: $C) -> bool {
    return true;
}
fn i_signbit(x: $C) -> bool {
    return x < $C(0);
}
fn i_relu(x: $C) -> $C {
    return max(x, $C(0));
}
fn i_clamp(x: $C) -> $C {
    return min(max(x, scalar_$C(0u)), scalar_$C(1u));
}
