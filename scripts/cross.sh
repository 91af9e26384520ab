#!/usr/bin/env bash
# Compiles the C code with other compilers and for other processors, runs it on fixed numbers (under qemu-user for other
# processors), and compares the results with those of this machine's `cc`. On Debian: apt-get install clang
# gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user. Whatever is not installed is skipped.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sizes=$(sed -n "s/^ *'\([A-Z]*\)': \([0-9]*\),.*/-D\1=\2/p" ../models/native/library.py)
echo 'int main(void) { return 0; }' > "$folder/empty.c"

# build REAL NAME COMPILER...
build() {
    local real=$1 name=$2
    shift 2
    "$@" -O3 $sizes -DREAL="$real" cross.c -o "$folder/$name" -lm 2> "$folder/log" || { cat "$folder/log" >&2; return 1; }
}

# here RUNNER COMPILER...: whether the compiler works and RUNNER can run its programs
here() {
    local runner=$1
    shift
    "$@" "$folder/empty.c" -o "$folder/empty" && $runner "$folder/empty"
}

for real in float double; do
    build $real here cc -march=native
    "$folder/here" > "$folder/$real"
done
status=0
# check NAME RUNNER COMPILER...
check() {
    local name=$1 runner=$2 real most
    shift 2
    here "$runner" "$@" > "$folder/log" 2>&1 || { echo "$name: not here"; return; }
    for real in float double; do
        build $real other "$@"
        [ $real = float ] && most=1e-4 || most=1e-12
        $runner "$folder/other" > "$folder/given"
        paste "$folder/$real" "$folder/given" | awk -v most=$most -v name="$name, $real" '
            { off = ($1 > $2 ? $1 - $2 : $2 - $1) / (1 + ($1 > 0 ? $1 : -$1))
              if (NF != 2 || $2 != $2 + 0 || !(off <= most)) wrong++
              if (off > worst) worst = off }
            END { printf "%s: %s, %d numbers differ by at most %.1g\n", name, wrong ? "WRONG" : "right", NR, worst
                  exit wrong > 0 }' || status=1
    done
}

check 'x86-64, gcc, SSE2' '' gcc -march=x86-64
check 'x86-64, gcc, OpenMP' '' gcc -march=native -fopenmp
check 'x86-64, clang' '' clang -march=native
check 'x86-64, clang, SSE2' '' clang -march=x86-64
check 'x86-64, clang, OpenMP' '' clang -march=native -fopenmp
check 'aarch64, gcc' qemu-aarch64 aarch64-linux-gnu-gcc -static
check 'aarch64, gcc, OpenMP' qemu-aarch64 aarch64-linux-gnu-gcc -static -fopenmp
check 'aarch64, clang' qemu-aarch64 clang --target=aarch64-linux-gnu -static
exit $status
