#!/usr/bin/env bash
# Correctness, speed and memory of the six nets on this machine's GPU, into one JSON under benchmarks/results/.
# Needs torch and NumPy, nothing else of the project's environment. PYTHON names the interpreter.
#   benchmarks/gpu.sh                  the whole of it, at most ten minutes
#   benchmarks/gpu.sh --help           what can be narrowed
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
