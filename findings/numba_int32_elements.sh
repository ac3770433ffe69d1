#!/usr/bin/env bash
# numba 0.68.1: the product of two int32 elements is int64, the product of two int32 arrays int32: in one function, another number.
#
# Code that is moved from C or NumPy into a loop under numba counts on 32-bit numbers: hashes, generators of random numbers and packed
# quantities wrap there. In NumPy and C a product of two int32 (or uint32) has 32 bits, whether elements or arrays are multiplied. numba
# computes integers in at least 64 bits (its NBEP 1), but array expressions keep NumPy's type, so that `x[0] * x[0]` and `(x * x)[0]`
# differ inside the same compiled function. `np.uint32(x[0] * y)` is what cuts it back; assigning to an array of 32 bits does so, too.
#
# Seen for 65537 * 65537 in int32: NumPy 131073, an element under numba 4295098369, an array under numba 131073. Two steps of a
# generator in uint32: NumPy 1586005467, numba 1690440584168923.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "numba==0.68.1" "numpy==2.4.6"
cat > "$work/products.py" <<'PYTHON'
import numba
import numpy as np


def element(x):
    return x[0] * x[0]


def array(x):
    return (x * x)[0]


def steps(seeds, count):
    """A linear congruential generator of 32 bits, as in Numerical Recipes."""
    state = seeds[0]
    for _ in range(count):
        state = state * seeds[1] + seeds[2]
    return state


np.seterr(over="ignore")
x = np.array([65537], np.int32)
print("int32", element(x), numba.njit(element)(x), numba.njit(array)(x))
seeds = np.array([1, 1664525, 1013904223], np.uint32)
print("uint32", steps(seeds, 2), numba.njit(steps)(seeds, 2))
PYTHON
"$work/venv/bin/python" "$work/products.py" > "$work/out" 2> "$work/err" || { tail -5 "$work/err"; exit 1; }
cat "$work/out"
grep -qx "uint32 1586005467 1690440584168923" "$work/out" || { echo "CHANGED: steps in uint32"; exit 1; }
grep -qx "int32 131073 4295098369 131073" "$work/out" || { echo "CHANGED: products of int32"; exit 1; }
echo "as described: elements of 32 bits are multiplied in 64, arrays in 32"
