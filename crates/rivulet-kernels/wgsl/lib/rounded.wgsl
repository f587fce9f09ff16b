// As it is. The driver cannot know that nothing is changed, and so cannot put what makes a value and what uses it together
// into an operation that rounds once.
fn rounded_f32(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ p.zero);
}
