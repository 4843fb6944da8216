#!/usr/bin/env bash
# Measures correctness, speed and memory of the six networks on this machine's GPU; writes one JSON file under
# benchmarks/results/. Needs only torch and NumPy. PYTHON selects the interpreter.
#   benchmarks/gpu.sh                  all measurements, within eight minutes
#   benchmarks/gpu.sh --help           options to select some of them
#   benchmarks/gpu.sh --device cpu --side 32 --batch 8 --width 0.125      a trial without a GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for python in ${PYTHON:+"$PYTHON"} .venv/bin/python python3 python; do
    if command -v "$python" >/dev/null &&
        "$python" -c 'import importlib.util as i, sys; sys.exit(not all(map(i.find_spec, ("numpy", "torch"))))'; then
        exec "$python" -m benchmarks.gpu "$@"
    fi
done
echo "gpu.sh: no Python with torch and NumPy found: set PYTHON, or run make setup" >&2
exit 2
