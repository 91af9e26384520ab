#!/usr/bin/env bash
# What is to be done on a CUDA device, one command each: the tests, the benchmark, or a training that may be interrupted.
#   bash scripts/cuda.sh suite [ARGUMENTS OF PYTEST]
#   bash scripts/cuda.sh benchmark [OPTIONS OF benchmark.py]
#   bash scripts/cuda.sh train [OPTIONS OF train.py]
# DEVICE names another device than cuda, so that the commands can be tried on a CPU.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
device=${DEVICE:-cuda}
what=${1:-}
case $what in
suite)
    environment requirements.txt tests/requirements.txt
    cd "$root"
    exec "$python" -m pytest -q -rs tests/test_cuda.py "${@:2}"
    ;;
benchmark)
    environment requirements.txt
    cd "$root"
    mkdir -p save
    "$python" scripts/benchmark.py -models edsr_baseline_MsIT edsr_baseline_liif edsr_baseline_lte -inputs 180x320 \
        339x510 540x960 -scales 4 -precision fp32 bf16 -no-query -output save/benchmark.json -device "$device" "${@:2}"
    exec "$python" train.py -config configs/train/train_edsr_baseline_MsIT_photos.yaml -profile -device "$device"
    ;;
train)
    environment requirements.txt
    cd "$root"
    resume=()
    if [ -d save/EDSR_MSIT ]; then resume=(-resume); fi
    exec "$python" train.py -config configs/train/train_edsr_baseline_MsIT_photos.yaml -name EDSR_MSIT \
        -device "$device" ${resume[@]+"${resume[@]}"} "${@:2}"
    ;;
*)
    echo "usage: bash $0 suite|benchmark|train [options]" >&2
    exit 2
    ;;
esac
