#!/usr/bin/env bash
# Everything that is worth knowing of a machine with an NVIDIA card, in parts: whether results are right, and how fast it
# is beside PyTorch CUDA. Needs the library built (./run setup, or python build_native.py), and for the parts in Rust their
# examples: cargo build --release -p rivulet --examples. Each part writes a file into the folder; with no part named, all run.
#
#   tests/gpu/on_card.sh FOLDER [selftest|right|opinfo|threads|models|beside|latency|h200|rust|plans|published]...
#
# RIVULET_ADAPTER names the card (nvidia), EXAMPLES the folder of the built examples.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?usage: tests/gpu/on_card.sh FOLDER [PART...]}
shift
mkdir -p "$folder"
export RIVULET_ADAPTER=${RIVULET_ADAPTER:-nvidia} PYTHONUNBUFFERED=1
examples=${EXAMPLES:-target/release/examples}
seconds=${SECONDS_EACH:-0.15}
failed=()

part() { # part NAME COMMAND...: its output into a file, its last lines here
    local name=$1 begun=$SECONDS status=0
    shift
    "$@" >"$folder/$name.txt" 2>&1 || status=$?
    tail -n 3 "$folder/$name.txt"
    echo "$name: status $status after $((SECONDS - begun)) s"
    [ $status = 0 ] || failed+=("$name")
}

# What users run; five minutes and its JSON.
selftest() { RIVULET_ACCELERATOR=mps python -m rivulet selftest --minutes 5 --json "$folder/selftest.json"; }
right() { RIVULET_ACCELERATOR=mps python tests/python/native_cases.py pointwise reductions products shapes_and_places gradients images places \
    random_numbers models threads; }
# Needs the package expecttest, as PyTorch's own test suite does.
opinfo() {
    export RIVULET_ACCELERATOR=mps
    local tasks=forward:float32,forward:float16,forward:bfloat16,forward:int64,forward:bool,forward:int32
    python tests/python/opinfo --workers "$(($(nproc) - 1))" --tasks "$tasks,gradients,variants:float32" \
        --out "$folder/opinfo.json"
}
threads() { python tests/python/thread_rounds.py --threads 31 --rounds 30; }
models() { python tests/gpu/model_sizes.py; }
beside() { RIVULET_ACCELERATOR=cuda python tests/gpu/beside_cuda.py; }
latency() {
    "$examples/event_latency" && RIVULET_ACCELERATOR=cuda python benchmarks/event_latency.py && "$examples/fairness" 2
}
h200() { RIVULET_ACCELERATOR=cuda python benchmarks/h200.py --seconds "$seconds" --out "$folder/h200.json"; }
rust() {
    "$examples/throughput" --seconds "$seconds" --out "$folder/throughput.json" && "$examples/product_speed" nvidia &&
        "$examples/bandwidth_speed" nvidia && "$examples/plan_throughput" nvidia --seconds "$seconds" &&
        "$examples/batch_throughput" --seconds "$seconds" --threads 1,8,31 --in-flight 1,2 --gather device
}
plans() { RIVULET_ACCELERATOR=cuda python benchmarks/plans_gpu.py --seconds "$seconds" --out "$folder/plans.json"; }

published() { RIVULET_ACCELERATOR=cuda python benchmarks/published.py --seconds "$seconds" --out "$folder/published.json"; }

all="selftest right opinfo threads models beside latency h200 rust plans published"
for name in ${*:-$all}; do
    case " $all " in *" $name "*) ;; *) echo "no part $name; there are $all" >&2; exit 2 ;; esac
    part "$name" "$name"
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
