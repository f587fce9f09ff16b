// The convolution as a product of the weights, a row for each output channel, and the patches of the input, a column for
// each place of the output; patches are gathered while they are loaded. A workgroup makes $TM channels of $TN places.
var<workgroup> tile_a: array<vec4<f32>, $A_VECTORS>;
var<workgroup> tile_b: array<vec4<f32>, $B_VECTORS>;
// What an invocation loads of the patches: always the same place of the output.
var<private> x_base: u32;
var<private> corner: vec2<i32>;
var<private> inside: bool;

// Input channel, row and column of the kernel for place `k` of a patch.
fn tap(k: u32) -> vec3<u32> {
    let area = p.kernel.x * p.kernel.y;
    let channel = k / area;
    let rest = k - channel * area;
    let row = rest / p.kernel.y;
    return vec3<u32>(channel, row, rest - row * p.kernel.y);
}
fn fetch_weight(base: u32, row: u32, k: u32, depth: u32) -> f32 {
    if (row < p.out_channels && k < depth) {
        let t = tap(k);
        return load_weight(base + row * p.weight_strides.x + dot(t, p.weight_strides.yzw));
    }
    return 0.0;
}
fn fetch_x(k: u32, depth: u32) -> f32 {
    if (!inside || k >= depth) {
        return 0.0;
    }
    let t = tap(k);
$AT
    if (at.x < 0 || at.y < 0 || at.x >= i32(p.x_size.x) || at.y >= i32(p.x_size.y)) {
        return 0.0;
    }
    return load_x(x_base + t.x * p.x_strides.y + u32(at.x) * p.x_strides.z + u32(at.y) * p.x_strides.w);
}
// Batch, row and column of column `n` of the product.
fn place(n: u32) -> vec3<u32> {
    let area = p.out_size.x * p.out_size.y;
    let sample = n / area;
    let rest = n - sample * area;
    let row = rest / p.out_size.y;
    return vec3<u32>(sample, row, rest - row * p.out_size.y);
}
fn store_four(base: u32, bias: u32, channel: u32, n: u32, sums: vec4<f32>) {
    if (channel >= p.out_channels) {
        return;
    }
    let columns = p.batch * p.out_size.x * p.out_size.y;
    for (var j = 0u; j < 4u; j++) {
        if (n + j < columns) {
            let at = place(n + j);
            let to = base + channel * p.out_strides.y + dot(at, p.out_strides.xzw);
            store_out(to, sums[j]$BIAS);
        }
    }
}

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first_row = group.y * $TMu;
    let first_column = group.x * $TNu;
    let x = local % $XSu;
    let y = local / $XSu;
    let depth = p.in_channels * p.kernel.x * p.kernel.y;
    let weight_base = p.offsets.z + group.z * $WEIGHT_GROUP;
    let out_base = p.offsets.x + group.z * p.out_channels * p.out_strides.y;
    let bias_base = p.offsets.w + group.z * p.out_channels;
    let own_column = local % $TNu;
    let own = place(first_column + own_column);
    inside = own.x < p.batch;
    x_base = p.offsets.y + own.x * p.x_strides.x + group.z * $X_GROUP;
$CORNER
$DECLARE
    for (var k = 0u; k < depth; k += $TKu) {
        for (var i = local; i < $TMu * $TKu; i += $THREADSu) {
            let kk = i % $TKu;
            let row = i / $TKu;
            tile_a[kk * ($TMu / 4u) + row / 4u][row % 4u] = fetch_weight(weight_base, first_row + row, k + kk, depth);
        }
        for (var kk = local / $TNu; kk < $TKu; kk += $THREADSu / $TNu) {
            tile_b[kk * ($TNu / 4u) + own_column / 4u][own_column % 4u] = fetch_x(k + kk, depth);
        }
        workgroupBarrier();
        for (var kk = 0u; kk < $TKu; kk++) {
$MULTIPLY
        }
        workgroupBarrier();
    }
$WRITE
}
