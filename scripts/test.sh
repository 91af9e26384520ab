#!/usr/bin/env bash
# Checks style (ruff) and types (mypy), and runs the tests; arguments go to pytest. All of it is run even where a part
# fails, and the exit status is that of the last part that failed.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
environment requirements.txt tests/requirements.txt
cd "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}        # the tests' tensors are too small to share
status=0
"$python" -m ruff check || status=$?
"$python" -m ruff format --check || status=$?
"$python" -m mypy || status=$?
"$python" -m pytest -q -n auto --dist loadfile "$@" || status=$?
exit "$status"
