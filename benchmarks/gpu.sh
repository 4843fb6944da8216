#!/usr/bin/env bash
# Numerics and throughput of every configuration on a GPU; needs only torch (2.11 or newer) and NumPy,
# torchvision where it is there. See benchmarks/README.md. Flags go to benchmarks/gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
exec "$python" -m benchmarks.gpu "$@"
