#!/usr/bin/env bash
# Runs the test suite; arguments go to pytest.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
environment requirements.txt tests/requirements.txt
cd "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}        # the tests' tensors are too small to share
exec "$python" -m pytest -q "$@"
