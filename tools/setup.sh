#!/usr/bin/env bash
# Make or update .venv:  tools/setup.sh WHAT STAMP   (WHAT: ".[tasks]" or ".[dev]"; STAMP: the file to touch when all is well)
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1 stamp=$2 log=.venv/install.log

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    for name in python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$name; break; fi
    done
    [ -n "${python:-}" ] || fail "wordmill needs Python 3.11 or newer, and there is none on the PATH"
    [ ! -e .venv ] || fail ".venv exists but holds no working Python 3.11 or newer: move it away, then try again"
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv .venv || fail "this Python can't make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
fi

# Without an NVIDIA GPU, a Linux machine is better off with torch's CPU build (0.2 GB instead of several), where its index can be reached.
extra=()
if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    cpu=https://download.pytorch.org/whl/cpu
    if .venv/bin/python -c "import urllib.request as u; u.urlopen('$cpu/', timeout=5)" 2>/dev/null; then extra=(--extra-index-url "$cpu"); fi
fi

echo "Installing wordmill ($what) into .venv; the details go to $log"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ${extra[@]+"${extra[@]}"} -e "$what" >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; fail "the install failed (the whole output is in $log)"; }
touch "$stamp"
