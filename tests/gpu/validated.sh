#!/bin/sh
# Runs the GPU tests on llvmpipe under a validation layer that sees the hazards of compute kernels.
#
# Debian 12's layer (1.3.239) looks at copies only; that of Debian 13 (1.4.309) looks at what kernels access, and needs a
# newer C library. So a small Debian 13 is unpacked into a folder, and the tests, built here, run in it by chroot. Needs
# root, debootstrap, cargo and about 600 MB in the folder, which is removed at the end.
#
#     tests/gpu/validated.sh FOLDER [--keep] [--python PYTHON] [--torch-cases "threads models ..."] [--only PATTERN]
#                            [--list]
#
#   FOLDER         where Debian 13 is put; one that an earlier run kept is used again
#   --keep         leave it there
#   --python       an interpreter with PyTorch for which the library is built: then native_cases.py runs too
#   --torch-cases  its parts (default: threads)
#   --only         only the test files whose name matches this regular expression
#   --list         say which tests would run, and nothing else
#
# Every message of the layer fails the run, whichever test it comes from, but for those of vulkan_hazards, which leaves a
# barrier out to see it reported. The last line is "N test files, M messages".
set -eu

repository=$(cd "$(dirname "$0")/../.." && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
folder='' keep=no python='' cases=threads only=. list=no
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=yes ;;
        --list) list=yes ;;
        --python) python=$2; shift ;;
        --torch-cases) cases=$2; shift ;;
        --only) only=$2; shift ;;
        -*) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
        *) folder=$1 ;;
    esac
    shift
done
[ -n "$folder" ] || { echo "usage: $0 FOLDER; see its head" >&2; exit 2; }

# Test programs: name, a blank, path.
built=$(cd "$repository" && cargo test --no-run --tests -p rivulet-hal -p rivulet-kernels -p rivulet --message-format=json 2>/dev/null |
    sed -n 's/.*"kind":\["test"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' | sort -u |
    grep -E '^(vulkan|gpu|native|mirror|plan)' | grep -E "^[^ ]*($only)" || true)
[ -n "$built" ] || { echo "no test program is built, or none matches $only" >&2; exit 2; }
if [ $list = yes ]; then
    echo "$built"
    exit
fi
[ "$(id -u)" = 0 ] || { echo "chroot and mounts need root" >&2; exit 2; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
root=$folder/debian13
if [ ! -e "$root/ready" ]; then
    debootstrap --variant=minbase --include=mesa-vulkan-drivers,libvulkan1,vulkan-validationlayers trixie "$root" "$mirror" >"$folder/debootstrap.log" ||
        { tail "$folder/debootstrap.log" >&2; exit 1; }
    touch "$root/ready"
fi
remove() {
    [ $keep = yes ] || rm -rf --one-file-system "$root" "$folder/debootstrap.log"
}
trap remove EXIT

# Debian 13's Mesa (25.0.7) makes wrong code for processors with AVX-512: tests of numbers fail, each time the same ones,
# that pass with the same SPIR-V where it may use AVX alone. Mesa of Debian 12 is right on the same processor.
CAPS=''
if grep -qw avx512f /proc/cpuinfo; then
    CAPS=GALLIUM_OVERRIDE_CPU_CAPS=avx
    echo "this processor has AVX-512: Mesa may use AVX alone"
fi
export CAPS

# What the programs name by absolute path is at the same place inside. Mounts are seen by these processes alone and end
# with them.
export ROOT="$root" REPOSITORY="$repository" TARGET="${CARGO_TARGET_DIR:-$repository/target}" PYTHON="$python"
export BUILT="$built" CASES="$cases" LOG="$folder/messages.txt"
unshare --mount sh -eu <<'INSIDE'
bind() {
    [ -e "$1" ] || return 0
    mkdir -p "$ROOT$1"
    mount --rbind "$1" "$ROOT$1"
}
bind "$REPOSITORY"
bind "$TARGET"
if [ -n "$PYTHON" ]; then
    # An interpreter of a virtual environment needs that and what it was made from.
    for prefix in $("$PYTHON" -c 'import sys; print(sys.prefix, sys.base_prefix)'); do
        # Debian's own interpreter is in /usr, which Debian 13 has itself.
        [ "$prefix" != /usr ] || { echo "$PYTHON: /usr cannot be lent to another system; name one beside it" >&2; exit 2; }
        bind "$prefix"
    done
fi
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mkdir -p "$ROOT/tmp/validated"
# LOG_MSG: the layer prints each message as well, also where the program has a callback of its own and shows nothing.
cat >"$ROOT/tmp/validated/vk_layer_settings.txt" <<'SETTINGS'
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.log_filename = stdout
khronos_validation.report_flags = error,warn,perf
khronos_validation.syncval_shader_accesses_heuristic = true
SETTINGS
inside() {
    chroot "$ROOT" env -i $CAPS PATH=/usr/bin:/bin HOME=/tmp/validated LP_NUM_THREADS=0 RIVULET_REQUIRE_VULKAN=1 RIVULET_VALIDATION=1 \
        RIVULET_CACHE_DIR=/tmp/validated/cache VK_LAYER_SETTINGS_PATH=/tmp/validated \
        VK_LAYER_SYNCVAL_SHADER_ACCESSES_HEURISTIC=true VK_LAYER_ENABLES=VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT \
        VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_VALIDATE_SYNC=true OMP_NUM_THREADS=1 "$@"
}
inside sh -c 'dpkg-query -W -f "\${Package} \${Version}\n" vulkan-validationlayers mesa-vulkan-drivers libvulkan1 libc6'
: >"$LOG"
files=0 messages=0 failed=0
count() {
    # name, command...
    name=$1
    shift
    files=$((files + 1))
    begun=$(date +%s)
    if inside "$@" >"$ROOT/tmp/validated/output" 2>&1; then outcome=passed; else outcome=FAILED failed=$((failed + 1)); fi
    found=$(grep -cE 'VUID-|SYNC-HAZARD|Validation (Error|Warning|Performance)|UNASSIGNED-' "$ROOT/tmp/validated/output" || true)
    tests=$(sed -n 's/^test result: [^.]*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 passed, \2 failed/p' "$ROOT/tmp/validated/output")
    echo "$name: $outcome, ${tests:-one program}, $found messages, $(($(date +%s) - begun)) s"
    if [ "$name" = vulkan_hazards ]; then
        [ "$found" -gt 0 ] || { outcome=FAILED failed=$((failed + 1)); echo "the layer did not report the barrier that was left out"; }
        found=0
    fi
    messages=$((messages + found))
    if [ "$found" -gt 0 ] || [ $outcome = FAILED ]; then
        { echo "== $name"; cat "$ROOT/tmp/validated/output"; } >>"$LOG"
        tail -n 12 "$ROOT/tmp/validated/output"
    fi
}
while read -r name program; do
    count "$name" sh -c 'cd "$1" && exec "$2" --nocapture' sh "$REPOSITORY" "$program"
done <<LIST
$BUILT
LIST
if [ -n "$PYTHON" ]; then
    for case in $CASES; do
        for mirror in 0 1; do
            count "native_cases $case, RIVULET_MIRROR=$mirror" env RIVULET_ADAPTER=llvmpipe RIVULET_MIRROR=$mirror \
                PYTHONPATH="$REPOSITORY/python" "$PYTHON" "$REPOSITORY/tests/python/native_cases.py" "$case"
        done
    done
fi
echo "$files test files, $messages messages"
[ "$messages" = 0 ] && [ $failed = 0 ]
INSIDE
