#!/bin/sh
# Make .venv with a Python that is new enough, unless there is one. First argument: the Python to take, or nothing.
set -eu

# exit status 0: new enough and able to make environments; otherwise one line says what is missing
ask='
import sys
if sys.version_info < (3, 11):
    sys.exit("it is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("it has no venv module (Debian and Ubuntu: apt install python3-venv)")
'

if [ -x .venv/bin/python ] && .venv/bin/python -c "$ask" 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    exit 0
fi

reasons=""
for python in ${1:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if ! command -v "$python" >/dev/null 2>&1; then
        [ -z "${1:-}" ] || reasons="$python: not found"
    elif reason=$("$python" -c "$ask" 2>&1); then
        echo "setup 1/4: .venv with $("$python" --version)"
        rm -rf .venv
        exec "$python" -m venv .venv
    else
        reasons="${reasons:+$reasons; }$python: $(echo "$reason" | tail -n 1)"
    fi
done
echo "setup: Python 3.11 or newer with its venv module is needed (${reasons:-no python3 on the path}); choose one with make setup PYTHON=/path/to/python3" >&2
exit 1
