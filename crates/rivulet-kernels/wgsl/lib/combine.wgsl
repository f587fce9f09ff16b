// How reductions and scans join two values.
fn join_sum(a: $A, b: $A) -> $A {
    return a + b;
}
fn join_second(a: $A, b: $A) -> $A {
    return b;
}
fn join_prod(a: $A, b: $A) -> $A {
    return a * b;
}
fn join_max_f32(a: f32, b: f32) -> f32 {
    return f_maximum(a, b);
}
fn join_min_f32(a: f32, b: f32) -> f32 {
    return f_minimum(a, b);
}
fn join_max_i32(a: i32, b: i32) -> i32 {
    return max(a, b);
}
fn join_min_i32(a: i32, b: i32) -> i32 {
    return min(a, b);
}
fn join_max_i64(a: i64, b: i64) -> i64 {
    return max(a, b);
}
fn join_min_i64(a: i64, b: i64) -> i64 {
    return min(a, b);
}
fn lowest_f32() -> f32 {
    return -inf_f32();
}
fn highest_f32() -> f32 {
    return inf_f32();
}
fn lowest_i32() -> i32 {
    return i32(-2147483647 - 1);
}
fn highest_i32() -> i32 {
    return 2147483647;
}
fn lowest_i64() -> i64 {
    return i64(1) << 63u;
}
fn highest_i64() -> i64 {
    return i64(-1) - (i64(1) << 63u);
}
fn join_log_sum_exp(a: f32, b: f32) -> f32 {
    let high = f_maximum(a, b);
    let low = f_minimum(a, b);
    // The difference of equal infinities would be a NaN.
    if (!is_finite(high)) {
        return high;
    }
    return high + log1p_f32(exp_f32(low - high));
}
