#!/usr/bin/env bash
# Fetches onnxruntime-web, in the version of package-lock.json, from the npm registry into .cache/page, once.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
packages=$root/.cache/page
if ! command -v npm >/dev/null; then
    echo "error: npm is needed to fetch onnxruntime-web (Debian: apt-get install npm; else see nodejs.org)" >&2
    exit 2
fi
cmp -s "$root/scripts/page/package-lock.json" "$packages/installed" && exit
echo "fetching onnxruntime-web"
mkdir -p "$packages"
rm -f "$packages/installed"
cp "$root/scripts/page/package.json" "$root/scripts/page/package-lock.json" "$packages"
if ! npm ci --prefix "$packages" --ignore-scripts --no-audit --no-fund --loglevel=error; then
    echo "error: onnxruntime-web could not be fetched; run the script again to go on" >&2
    exit 2
fi
cp "$root/scripts/page/package-lock.json" "$packages/installed"
