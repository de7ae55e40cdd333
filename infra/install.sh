#!/bin/sh
# What the image is made of, a step each: `install.sh system|torch|dependencies|package|user`, in this order, as root.
# The Dockerfile calls it so that each step is a layer; tests/test_install.py runs the same steps in a bare Debian.
#
# Read from the environment: TORCH (torch==2.13.0), TORCH_INDEX (PyTorch's CPU wheels; empty: pip's own index), SOURCE (where
# the repository's files are, /opt/morphogen).
set -eu

TORCH=${TORCH:-torch==2.13.0}
TORCH_INDEX=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
cd "${SOURCE:-/opt/morphogen}"

case "${1:-}" in
system) # KubeRay's health probes of the Ray pods call wget.
  apt-get update
  apt-get install --yes --no-install-recommends wget
  rm -rf /var/lib/apt/lists/*
  ;;
torch) # First and without dependencies: PyTorch's index lacks most of them at the versions in constraints.txt.
  pip install --compile --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
  ;;
dependencies) # Without its folders the package is empty. TORCH may be another version than the constraint.
  grep -v '^torch==' constraints.txt > /tmp/constraints.txt
  pip install --compile -c /tmp/constraints.txt .
  rm -rf /tmp/constraints.txt build ./*.egg-info
  ;;
package)
  pip install --compile --no-deps --force-reinstall .
  rm -rf build ./*.egg-info
  ;;
user) # Numeric, so that `runAsNonRoot` can be checked; numba caches its kernels in the home where that can be written.
  useradd --uid 1000 --user-group --create-home morphogen
  ;;
*)
  echo "install.sh: a step is system, torch, dependencies, package or user; found '${1:-}'" >&2
  exit 2
  ;;
esac
