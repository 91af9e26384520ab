#!/usr/bin/env bash
# Enlarges the bundled photo with the bundled weights, and writes a figure of the result beside bicubic.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
environment requirements.txt
mkdir -p "$root/demo_output"
"$python" "$root/demo.py" -input "$root/scripts/demo.png" -scale 4 -overwrite \
    -output "$root/demo_output/demo_x4.png" -compare "$root/demo_output/comparison.png"
