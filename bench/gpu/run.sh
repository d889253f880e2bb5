#!/usr/bin/env bash
# Says within ten minutes, as one JSON, whether the package holds what it promises on this machine's
# GPU. It needs Python with torch 2.11 or newer and numpy; no Ray, no network, nothing installed.
#
#   bash bench/gpu/run.sh                     in a folder made by `make gpu-folder`
#   bash bench/gpu/run.sh --minutes 3         a dry run
#   bash bench/gpu/run.sh --tiny --device cpu --minutes 1
#
# PYTHON names the interpreter; the result goes to gpu.json in the folder that it is called in.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# What the machine lacks is in site/; what it has itself goes first.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
exec "${PYTHON:-python3}" -m bench.gpu --root "$root" "$@"
