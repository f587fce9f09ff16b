// Two sorted neighbouring runs become one: an element's rank is its place in its own run and the number of elements of
// the other that come before it. Of equal keys those of the left run are first.
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + local;
    if (i >= p.rows * p.size) {
        return;
    }
    let row = i / p.size * p.size;
    let e = i - row;
    let start = e / (2u * p.width) * (2u * p.width);
    let middle = min(start + p.width, p.size);
    let end = min(start + 2u * p.width, p.size);
    let key = $OWN;
    let right = e >= middle;
    var low = select(middle, start, right);
    let first = low;
    var high = select(end, middle, right);
    while (low < high) {
        let probe = (low + high) / 2u;
        let other = $OTHER;
        if (other < key || (right && other == key)) {
            low = probe + 1u;
        } else {
            high = probe;
        }
    }
    let to = row + select(e, e - middle + start, right) + low - first;
    store_keys(to, $KEEP);
    store_places(to, load_places_in(i));
}
