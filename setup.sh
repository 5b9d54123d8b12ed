#!/bin/sh
# Makes .venv and installs this checkout into it, in the versions of requirements.lock. Called by make; safe to call again.
# ENVIRONMENT, LOCK and EXTRAS name another folder, other versions (make lower) and other extras, or none (deploy/Dockerfile).
set -eu
cd "$(dirname "$0")"
ENVIRONMENT=${ENVIRONMENT:-.venv}
LOCK=${LOCK:-requirements.lock}
EXTRAS=${EXTRAS-test,dev}
TORCH=$(sed -n 's/^ *\(torch==.*\)$/\1/p' "$LOCK")
CPU_INDEX=https://download.pytorch.org/whl/cpu

fail() {
    echo "itrex_chat: $1" >&2
    exit 1
}

# An interpreter that is new enough.
if [ -z "${PYTHON:-}" ]; then
    for name in python3.13 python3.12 python3.11 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            PYTHON=$name
            break
        fi
    done
fi
[ -n "${PYTHON:-}" ] || fail "no Python 3.11 or newer was found. Install one (Debian, Ubuntu: apt install python3 python3-venv; conda: conda create -n itrex_chat python=3.11) or say which: make PYTHON=/path/to/python"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$PYTHON is not Python 3.11 or newer. Say which to use: make PYTHON=/path/to/python"

# An environment with pip in it.
if ! "$ENVIRONMENT/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$ENVIRONMENT"
    "$PYTHON" -m venv "$ENVIRONMENT" >/dev/null 2>&1 && "$ENVIRONMENT/bin/python" -m pip --version >/dev/null 2>&1 ||
        fail "$PYTHON cannot make an environment with pip in it. Debian, Ubuntu: apt install python3-venv python3-pip"
fi

# The build of torch for CPUs where it can be had: the default one for Linux brings gigabytes of CUDA.
if ! "$ENVIRONMENT/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${TORCH#torch==}')" 2>/dev/null; then
    if [ -z "${TORCH_INDEX+set}" ]; then
        TORCH_INDEX=$("$PYTHON" - "$CPU_INDEX" <<'PROBE'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=4).close()
    print(sys.argv[1])
except Exception:
    pass
PROBE
)
    fi
    echo "itrex_chat: installing $TORCH${TORCH_INDEX:+ from $TORCH_INDEX}"
    "$ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" ||
        fail "$TORCH could not be installed. Check the network, or name an index that has it: make TORCH_INDEX=https://…"
fi

echo "itrex_chat: installing this checkout and what it needs into $ENVIRONMENT"
"$ENVIRONMENT/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$LOCK" --editable ".${EXTRAS:+[$EXTRAS]}" ||
    fail "the packages of setup.cfg could not be installed in the versions of $LOCK. Check the network and run the same command again."
touch "$ENVIRONMENT/.installed"
