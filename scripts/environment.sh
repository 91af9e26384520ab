# Sourced by the other scripts. `environment FILE...` makes the repository's .venv if needed and installs the requirement
# FILEs (relative to the repository) in it; $python is its interpreter. A file is installed if it is new or has changed:
# after a successful installation, a copy of it is kept in .venv to compare with.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python

environment() {
    if ! usable "$python" pip; then
        local base
        base=$(base_python) || return 1
        echo "making $venv with $("$base" --version)"
        "$base" -m venv --clear "$venv" || return 1
    fi
    local file stamp
    for file in "$@"; do
        stamp=$venv/installed-${file//\//-}
        cmp -s "$root/$file" "$stamp" && continue
        echo "installing $file"
        rm -f "$stamp"
        if ! "$python" -m pip install --no-input --disable-pip-version-check -r "$root/$file"; then
            echo "error: $file could not be installed; run the script again to continue" >&2
            return 1
        fi
        cp "$root/$file" "$stamp"
    done
}

# Prints the name of a Python that can make the environment.
base_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if usable "$name" ensurepip; then
            echo "$name"
            return
        fi
    done
    echo "error: Python 3.10 or newer with venv and ensurepip is needed; python3 is $(python3 --version 2>&1)" >&2
    return 1
}

# Succeeds if the interpreter $1 runs, is 3.10 or newer and has the module $2.
usable() {
    "$1" -c "import sys, venv, $2; sys.exit(sys.version_info < (3, 10))" >/dev/null 2>&1
}
