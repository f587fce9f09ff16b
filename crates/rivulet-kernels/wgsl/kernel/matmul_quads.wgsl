// As matmul_tile.wgsl, reading four elements at a time, with the next tiles on their way from memory while these are
// multiplied. Everything along k is written out, so that no place in shared memory has to be worked out. Shared memory is
// written in columns where k runs along memory; vectors change places so that those writes meet in no bank. Rows and
// columns past the last ones are made of the last ones, and not stored. The invocations of a slice make the whole tile of
// their part of the $TK steps; slices add up what they have at the end, through the same memory.
var<workgroup> tile: array<vec4<f32>, $VECTORS>;

@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let base = $BASE;
    let first = $FIRST;
    let end = $END;
    let first_row = group.y * $TMu;
    let first_column = group.x * $TNu;
    let slice = local / $SLICEu;
    let thread = local % $SLICEu;
    let x = $X;
    let y = $Y;
$DECLARE
$FETCH
    for (var k = first; k < end; k += $TKu) {
$KEEP
        workgroupBarrier();
$FETCH_NEXT
$MULTIPLY
        workgroupBarrier();
    }
$WRITE
}
