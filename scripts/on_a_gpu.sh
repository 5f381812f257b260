#!/bin/bash
# All that wants a GPU, within eight minutes: the tests that are marked so, then the benchmark of trials.
#
#   scripts/on_a_gpu.sh [PYTHON]
#
# PYTHON, $PYTHON, .venv/bin/python, python3 or python: the first that sees a CUDA device. What excise needs and
# that Python lacks is installed into build/gpu, an environment on top of it. The last line says what was run.
set -u
cd "$(dirname "$0")/.." || exit 1
limit=470 # seconds in all, a little less than eight minutes
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

left() { echo $((limit - SECONDS)); }
finish() {
    echo "on_a_gpu: $1 (${SECONDS} s)"
    exit "$2"
}

python=
for each in "${1-}" "${PYTHON-}" .venv/bin/python python3 python; do
    if [ -n "$each" ] && timeout 60 "$each" -c \
        'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then
        python=$each
        break
    fi
done
[ -n "$python" ] || finish "no Python here has a PyTorch that sees a CUDA device; nothing was run" 1
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'

ready() { timeout 60 "$python" -c 'import excise, pytest, optuna, peft, psutil, transformers' 2>/dev/null; }
if ! ready; then
    "$python" -m venv --system-site-packages build/gpu || finish "no environment could be made" 1
    python=build/gpu/bin/python
    # Without a network, what is there already has to do.
    timeout 120 "$python" -m pip install --quiet -e . pytest ||
        timeout 60 "$python" -m pip install --quiet --no-deps --no-build-isolation -e . ||
        export PYTHONPATH="$PWD/src"
    ready || finish "packages that excise needs are missing, and could not be installed; nothing was run" 1
fi

# Warnings of a device are not the tests' concern, which else are errors.
timeout -k 5 200 "$python" -m pytest -m gpu -W default -rs --durations=5
tests=$?
case $tests in
    0) said="tests passed" ;;
    124 | 137) said="tests did not end in time" ;;
    *) said="tests FAILED" ;;
esac

timeout -k 5 "$(left)" "$python" bench/gpu.py --within $(($(left) - 40)) --repeats 2 --tokens 48
bench=$?
if [ $bench -eq 0 ]; then
    said="$said; the benchmark is in docs/benchmarks/gpu.md"
else
    said="$said; the benchmark did not end (status $bench)"
fi
finish "$said" $((tests != 0 || bench != 0))
