// A workgroup sorts 1024 places, which are one run or several shorter ones, in shared memory: K. Batcher's bitonic
// network. Places are compared where keys are equal, which makes the order total and the sort stable.
var<workgroup> slot_keys: array<$K, 1024>;
var<workgroup> slot_places: array<u32, 1024>;

fn before(a: u32, b: u32) -> bool {
    return slot_keys[a] < slot_keys[b] || (slot_keys[a] == slot_keys[b] && slot_places[a] < slot_places[b]);
}
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first_run = (group.y * groups.x + group.x) * (1024u / p.width);
    for (var slot = local; slot < 1024u; slot += 256u) {
        let run = first_run + slot / p.width;
        let row = run / p.runs;
        let e = run % p.runs * p.width + slot % p.width;
        // What fills a run up goes to its end.
        var key = highest_$K();
        var place = 0xffffffffu;
        if (row < p.rows && e < p.size) {
            key = sort_key(load_x(p.offsets.z + row_start(row, p.size) + e * p.inner));
            place = e;
        }
        slot_keys[slot] = key;
        slot_places[slot] = place;
    }
    workgroupBarrier();
    for (var length = 2u; length <= p.width; length = length * 2u) {
        for (var distance = length / 2u; distance > 0u; distance = distance / 2u) {
            for (var pair = local; pair < 512u; pair += 256u) {
                let low = pair / distance * (2u * distance) + pair % distance;
                let high = low + distance;
                let rising = (low & (p.width - 1u) & length) == 0u;
                if ((rising && before(high, low)) || (!rising && before(low, high))) {
                    let key = slot_keys[low];
                    let place = slot_places[low];
                    slot_keys[low] = slot_keys[high];
                    slot_places[low] = slot_places[high];
                    slot_keys[high] = key;
                    slot_places[high] = place;
                }
            }
            workgroupBarrier();
        }
    }
    for (var slot = local; slot < 1024u; slot += 256u) {
        let run = first_run + slot / p.width;
        let row = run / p.runs;
        let rank = run % p.runs * p.width + slot % p.width;
        if (row < p.rows && rank < $LIMIT) {
            let key = slot_keys[slot];
            let place = slot_places[slot];
            $STORE
        }
    }
}
