#!/bin/sh
# Shows that the loom models can fail: builds every model file once for each `--cfg seeded_bug="…"` that its tests
# name, and expects the test that names it to find the bug (it is `should_panic` then). Bugs that a model plants at
# run time (hazard, memory) are ordinary tests of the loom build and need no script.
#
#   crates/rivulet/tests/seeded_bugs.sh [model file name without .rs]...
#
# Run from anywhere in the repository. Exit code 0 where every bug was found.
set -eu
cd "$(dirname "$0")/../../.."
# In the target folder, so that the wrappers keep their names and what was built with them is found again.
scratch="${CARGO_TARGET_DIR:-$PWD/target}/seeded-bugs"
mkdir -p "$scratch"

count=0
for file in crates/*/tests/loom_*.rs; do
    test="$(basename "$file" .rs)"
    case " ${*:-$test} " in *" $test "*) ;; *) continue ;; esac
    package="$(basename "$(dirname "$(dirname "$file")")")"
    # Attributes may be spread over lines; those with should_panic name the bug.
    bugs="$(tr '\n' ' ' <"$file" | grep -o '#\[cfg_attr([^]]*should_panic' | grep -o 'seeded_bug = "[^"]*"' |
        cut -d'"' -f2 | sort -u || true)"
    for bug in $bugs; do
        echo "== $package $test: $bug"
        # A wrapper for workspace crates only: the bug then rebuilds no dependency.
        printf '#!/bin/sh\nexec "$@" --cfg '\''seeded_bug="%s"'\''\n' "$bug" >"$scratch/$bug"
        chmod +x "$scratch/$bug"
        RUST_BACKTRACE=0 RUSTFLAGS="--cfg loom" RUSTC_WORKSPACE_WRAPPER="$scratch/$bug" \
            cargo test --quiet -p "$package" --release --test "$test" >"$scratch/log" 2>&1 ||
            { cat "$scratch/log"; echo "the model did not find $bug"; exit 1; }
        grep -q "should panic ... ok\|^running [1-9]" "$scratch/log" || { cat "$scratch/log"; exit 1; }
        count=$((count + 1))
    done
done
echo "$count seeded bugs were found"
