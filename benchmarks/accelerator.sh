#!/usr/bin/env bash
# Measures this package on a GPU or TPU, in about ten minutes:
#   benchmarks/accelerator.sh FOLDER
# writes FOLDER/accelerator.md, and FOLDER/checks.json and FOLDER/steps.json with all figures. To
# report a measurement, attach these three files. JAX for the device must be installed
# (https://docs.jax.dev/en/latest/installation.html).
#
# SMALL=1 uses tiny sizes, to try this script on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# != 1 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
python=${PYTHON:-python}
# The other forms are for CPUs.
checks=() steps=(--formulations lax grouped_time --modes scan) clips=2400 rates=()
if [ -n "${SMALL:-}" ]; then
    filters=(--filters 4 4 4 4 4 4 4 4 4)
    checks=("${filters[@]}" --batch_size=8 --resident_clips=50)
    steps=("${filters[@]}" --formulations toom_cook --modes scan --precisions f32
        --batch_size=2 --steps=2 --rounds=1 --num_classes=3)
    clips=600 rates=(--share=0.1 --rounds=1 --epochs=1 --member_steps=1)
fi

# Runs a part. The other parts still run if it fails.
part() {
    local title=$1
    shift
    echo "$title" >&2
    printf '\n## %s\n\n' "$title"
    "$@" || echo "failed: $*"
}
block() {
    echo '```text'
    "$@" || echo "failed: $*"
    echo '```'
}
whole_runs() {
    local data=$folder/data
    if [ ! -e "$data/DATA" ]; then
        "$python" -m data_prep.miniature --output_dir="$data/MINI" --num_clips=$clips
        "$python" -m data_prep.build --ontology="$data/MINI/ontology.json" \
            --segments="$data/MINI/segments.csv" --audio="$data/MINI/audio" \
            --output_dir="$data/DATA"
    fi >&2
    block "$python" benchmarks/main_rate.py --data_dir="$data/DATA" "${rates[@]}"
}

{
    echo "# relabel_jax $(git rev-parse --short HEAD 2>/dev/null || true) on this accelerator"
    part "Device, gradients, resident clips, profile" \
        "$python" benchmarks/accelerator.py --output="$folder/checks.json" \
        --profile="$folder/profile" "${checks[@]}"
    part "The training step" block "$python" -m relabel_jax.benchmark \
        --norms folded --output="$folder/steps.json" "${steps[@]}"
    part "Whole runs against the bare step, members by map and vmap" whole_runs
} >"$folder/accelerator.md"
echo "written $folder/accelerator.md" >&2
