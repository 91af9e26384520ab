#!/usr/bin/env bash
# What is to be done on a CUDA device, one command each: the tests, the benchmarks, trainings that may be interrupted,
# and what becomes of their weights.
#   bash scripts/cuda.sh suite [ARGUMENTS OF PYTEST]
#   bash scripts/cuda.sh benchmark [OPTIONS OF benchmark.py]
#   bash scripts/cuda.sh steps [OPTIONS OF train.py]
#   bash scripts/cuda.sh train|train-light|train-photo|train-liif|train-rdn [OPTIONS OF train.py]
#   bash scripts/cuda.sh weights [OPTIONS OF evaluate.py]
# DEVICE names another device than cuda, so that the commands can be tried on a CPU.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
device=${DEVICE:-cuda}
what=${1:-}

# `train NAME CONFIG [OPTIONS]` begins the run save/NAME or goes on with it.
train() {
    local resume=()
    if [ -d "save/$1" ]; then resume=(-resume); fi
    "$python" train.py -config "configs/train/$2.yaml" -name "$1" -device "$device" \
        ${resume[@]+"${resume[@]}"} "${@:3}"
}

case $what in
suite) environment requirements.txt tests/requirements.txt ;;
benchmark | steps | train | train-light | train-photo | train-liif | train-rdn | weights) environment requirements.txt ;;
*)
    echo "usage: bash $0 suite|benchmark|steps|train|train-light|train-photo|train-liif|train-rdn|weights [options]" >&2
    exit 2
    ;;
esac
cd "$root"
case $what in
suite) "$python" -m pytest -q -rs tests/test_cuda.py "${@:2}" ;;
benchmark)
    mkdir -p save
    "$python" scripts/benchmark.py -models edsr_baseline_MsIT edsr_baseline_liif edsr_baseline_lte -inputs 180x320 \
        339x510 540x960 -scales 4 -precision fp32 bf16 -no-query -output save/benchmark.json -device "$device" "${@:2}"
    echo "with the kernel for attention"
    MSIT_TRITON=1 "$python" scripts/benchmark.py -models edsr_baseline_MsIT -inputs 180x320 339x510 540x960 -scales 4 \
        -precision fp32 bf16 -no-query -output save/benchmark_triton.json -device "$device" "${@:2}"
    ;;
steps)
    for compile in false true reduce-overhead; do
        echo "compile: $compile"
        "$python" train.py -config configs/train/train_edsr_baseline_MsIT_photos.yaml -profile -device "$device" \
            -set "compile=$compile" "${@:2}"
    done
    ;;
train) train EDSR_MSIT train_edsr_baseline_MsIT_photos "${@:2}" ;;
train-light) train light_MSIT train_light_MSIT_gpu "${@:2}" ;;
train-photo) train photo_texture train_photo_MSIT_gpu "${@:2}" ;;
train-liif) train EDSR_LIIF train_edsr_baseline_liif_photos "${@:2}" ;;
train-rdn) train RDN_MSIT train_rdn_baseline_MsIT_photos "${@:2}" ;;
weights)
    "$python" scripts/average.py save/EDSR_MSIT/stage2.pth -half -output modelzoo/EDSR_MSIT.pth
    beside=()
    for file in save/EDSR_LIIF/stage2.pth save/RDN_MSIT/stage2.pth; do
        if [ -f "$file" ]; then beside+=("$file"); fi
    done
    "$python" scripts/evaluate.py -models modelzoo/EDSR_MSIT.pth ${beside[@]+"${beside[@]}"} bicubic -sets set5 set14 b100 -scales 2 3 4 \
        -device "$device" "${@:2}"
    ;;
esac
