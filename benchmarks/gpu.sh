#!/usr/bin/env bash
# Everything that is measured on a GPU, in under five minutes; GPU="--repeats 3" for less.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" benchmarks/gpu.py ${GPU:-}
