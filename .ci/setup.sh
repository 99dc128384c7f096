#!/usr/bin/env bash
# Everything that `make demo` and `make test` need, from a bare Debian machine with Python 3.10+ : system packages (as root
# or with sudo), .venv, ditscale with its requirements, and FFCV. Safe to run again at any time.
# TEST_PACKAGES names more system packages; CI sets it, as nobody wants an ssh server from `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
ffcv_packages="pkg-config libturbojpeg0-dev libopencv-dev"

say() { printf '\n== %s\n' "$*"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "error: $("$python" --version) is too old: ditscale needs Python 3.10 or newer (set PYTHON=/path/to/python3)" >&2; exit 2; }

missing=""
if command -v dpkg-query >/dev/null; then
  for package in $ffcv_packages ${TEST_PACKAGES:-}; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed' || missing="$missing $package"
  done
fi
command -v c++ >/dev/null || missing="$missing g++"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || missing="$missing python3-dev"

if [ -n "$missing" ]; then
  install="apt-get update && apt-get install -y --no-install-recommends$missing"
  if ! command -v apt-get >/dev/null; then
    say "missing:$missing. This is not a Debian system: install their like yourself. Going on without them."
  elif [ "$(id -u)" = 0 ]; then
    say "installing system packages:$missing"
    DEBIAN_FRONTEND=noninteractive bash -c "$install" || say "that failed; going on without them"
  elif sudo -n true 2>/dev/null; then
    say "installing system packages with sudo:$missing"
    sudo DEBIAN_FRONTEND=noninteractive bash -c "$install" || say "that failed; going on without them"
  else
    say "missing:$missing. To install them, run once:  sudo sh -c '$install'"
    echo "Going on without them: the memory-mapped loader takes FFCV's place."
  fi
fi

if [ ! -x .venv/bin/python ]; then
  say "making .venv"
  "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
say "installing ditscale and its requirements into .venv (about 7 GB with CUDA's libraries; minutes, once)"
pip install --quiet setuptools wheel
pip install --quiet --editable '.[test]'

if ! .venv/bin/python -c 'import ffcv' 2>/dev/null; then
  say "building FFCV"
  if ! pip install --quiet --no-build-isolation ffcv >.venv/ffcv.log 2>&1 || ! .venv/bin/python -c 'import ffcv' 2>>.venv/ffcv.log; then
    echo "FFCV could not be built (.venv/ffcv.log says why; it needs: apt-get install -y $ffcv_packages)."
    echo "Going on without it: the memory-mapped loader reads the same files."
  fi
fi

touch .venv/.ready
