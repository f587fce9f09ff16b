// As scan.wgsl, with the place of the value that stands: the last of equal ones, and a NaN stands against all but
// another NaN.
var<workgroup> parts: array<$A, 256>;
var<workgroup> places: array<u32, 256>;

struct Best {
    value: $A,
    place: u32,
}
fn joined(a: Best, b: Best) -> Best {
    if (b.place == 0xffffffffu) {
        return a;
    }
    if (a.place == 0xffffffffu || ($STANDS)) {
        return b;
    }
    return a;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group.y * groups.x + group.x;
    if (row >= p.rows) {
        return;
    }
    let base = p.offsets + (row / p.inner * (p.size * p.inner) + row % p.inner);
    var carry = Best($A(0), 0xffffffffu);
    for (var first = 0u; first < p.size; first += 256u) {
        let e = first + local;
        var own = Best($A(0), 0xffffffffu);
        if (e < p.size) {
            own = Best(load_x(base.y + e * p.inner), e);
        }
        parts[local] = own.value;
        places[local] = own.place;
        workgroupBarrier();
        for (var distance = 1u; distance < 256u; distance = distance * 2u) {
            var before = Best($A(0), 0xffffffffu);
            if (local >= distance) {
                before = Best(parts[local - distance], places[local - distance]);
            }
            workgroupBarrier();
            own = joined(before, own);
            parts[local] = own.value;
            places[local] = own.place;
            workgroupBarrier();
        }
        let best = joined(carry, own);
        carry = joined(carry, Best(parts[255], places[255]));
        workgroupBarrier();
        if (e < p.size) {
            let total = best.value;
            store_out(base.x + e * p.inner, $RESULT);
            store_indices(base.z + e * p.inner, i64(best.place));
        }
    }
}
