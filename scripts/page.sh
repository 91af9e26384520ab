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

packages=$root/.cache/page          # onnxruntime-web as npm installs it
if ! command -v npm >/dev/null; then
    echo "error: npm is needed to fetch onnxruntime-web (Debian: apt-get install npm; else see nodejs.org)" >&2
    exit 2
fi
mkdir -p "$packages"
if ! cmp -s "$root/scripts/page/package-lock.json" "$packages/installed"; then
    echo "fetching onnxruntime-web"
    rm -f "$packages/installed"
    cp "$root/scripts/page/package.json" "$root/scripts/page/package-lock.json" "$packages"
    if ! npm ci --prefix "$packages" --ignore-scripts --no-audit --no-fund --loglevel=error; then
        echo "error: onnxruntime-web could not be fetched; run the script again to go on" >&2
        exit 2
    fi
    cp "$root/scripts/page/package-lock.json" "$packages/installed"
fi

environment requirements.txt scripts/page/requirements.txt
"$python" "$root/scripts/page/build.py" -ort "$packages/node_modules/onnxruntime-web" -output "$folder"
[ $# -gt 0 ] || exec "$python" "$root/scripts/page/serve.py" "$folder"
