#!/usr/bin/env bash
# Builds the page that zooms into a photo, into page/, and serves it on localhost.
# `-build DIR` only builds it, into DIR, for any static host.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

folder=$root/page
if [ $# -gt 0 ]; then
    if [ $# -ne 2 ] || { [ "$1" != -build ] && [ "$1" != --build ]; }; then
        echo "error: usage: bash scripts/page.sh [-build DIR]" >&2
        exit 2
    fi
    folder=$2
fi

bash "$root/scripts/page/fetch.sh"
environment requirements.txt scripts/page/requirements.txt
"$python" "$root/scripts/page/build.py" -ort "$root/.cache/page/node_modules/onnxruntime-web" -output "$folder"
[ $# -gt 0 ] || exec "$python" "$root/scripts/page/serve.py" "$folder"
