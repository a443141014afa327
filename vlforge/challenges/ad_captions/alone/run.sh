#!/bin/sh
# sh run.sh INPUT OUTPUT WEIGHTS [PYTHON]
#
# A caption for every line of INPUT (id, tab, picture in base64): id, tab, caption in OUTPUT.
# WEIGHTS is a model folder, or holds exactly one. PYTHON is python3 unless it is given.
# Relative paths start in src/; an INPUT or WEIGHTS that is not there is looked for where
# this was called, and OUTPUT then goes there too.
# INSTALL=1 sh run.sh ... installs requirements.txt first.
set -eu

if [ "$#" -lt 3 ] || [ "$#" -gt 4 ]; then
    echo "usage: sh run.sh INPUT OUTPUT WEIGHTS [PYTHON]" >&2
    exit 2
fi
called=$PWD
home=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# The folder that a relative path starts in.
start_of() {
    if [ -e "$home/src/$1" ] || [ ! -e "$called/$1" ]; then
        printf '%s\n' "$home/src"
    else
        printf '%s\n' "$called"
    fi
}

absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s/%s\n' "$2" "$1" ;;
    esac
}

start=$(start_of "$1")
input=$(absolute "$1" "$start")
output=$(absolute "$2" "$start")
weights=$(absolute "$3" "$(start_of "$3")")
python=${4:-python3}
case $python in
    /*) ;;
    */*) python=$(absolute "$python" "$called") ;;
esac

if [ "${INSTALL:-0}" = 1 ]; then
    "$python" -m pip install -r "$home/requirements.txt"
fi
cd "$home/src"
exec "$python" predict.py "$input" "$output" "$weights"
