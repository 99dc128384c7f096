#!/usr/bin/env bash
# Everything that `make demo` and `make test` need, from a bare Debian machine with Python 3.10+ : system packages (as root
# or with sudo), .venv, ditscale with its requirements in the versions of constraints.txt, and FFCV. What could not be had is
# listed at the end. Safe to run again at any time.
# TEST_PACKAGES names more system packages; CI sets it, as nobody wants an ssh server from `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
ffcv_packages="pkg-config libturbojpeg0-dev libopencv-dev"
notes=()                                         # the list at the end

say() { printf '\n== %s\n' "$*"; }
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "error: $("$python" --version) is too old: ditscale needs Python 3.10 or newer (set PYTHON=/path/to/python3)" >&2; exit 2; }

# ---- system packages
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
  as_root=""
  if [ "$(id -u)" = 0 ]; then as_root="env"; elif sudo -n true 2>/dev/null; then as_root="sudo"; fi
  if ! command -v apt-get >/dev/null; then
    notes+=("system packages:$missing. This is not a Debian system: install what corresponds to them, then run make setup again")
  elif [ -z "$as_root" ]; then
    notes+=("system packages:$missing. With an administrator's rights: sudo sh -c '$install'")
  else
    say "installing system packages:$missing"
    $as_root DEBIAN_FRONTEND=noninteractive bash -c "$install" || notes+=("system packages:$missing. Installing them failed; see above")
  fi
fi

# ---- Python packages
# install ARGUMENTS...: by the pins. One that the package index does not offer here is dropped, and another version taken.
install() {
  local log=.venv/pip.log name
  while ! pip install --quiet --constraint "$pins" "$@" 2>"$log"; do
    name=$(sed -n 's/^ERROR: No matching distribution found for \([A-Za-z0-9._-]*\).*/\1/p' "$log" | head -n 1)
    if [ -n "$name" ] && grep -qi "^$name==" "$pins"; then
      say "the package index does not offer $(grep -i "^$name==" "$pins"): taking another version"
      sed -i "/^$name==/Id" "$pins"
    elif grep -q ResolutionImpossible "$log" && [ -s "$pins" ]; then
      say "the versions of constraints.txt cannot be installed together here (.venv/pip.log): going on without them"
      : >"$pins"
    else
      cat "$log" >&2
      return 1
    fi
  done
}

if [ ! -x .venv/bin/python ]; then
  say "making .venv"
  "$python" -m venv .venv || {
    rm -rf .venv
    echo "error: $python cannot make a virtual environment: apt-get install python3-venv, or set PYTHON to another Python" >&2; exit 2; }
fi
pins=.venv/constraints.txt
cp constraints.txt "$pins"
say "installing ditscale and its requirements into .venv (about 7 GB with CUDA's libraries; minutes, once)"
install setuptools wheel
install --editable '.[test]'
differ=$(.venv/bin/python .ci/constraints.py compare constraints.txt)
[ -z "$differ" ] || notes+=("other versions than were tested (those of constraints.txt in brackets): $differ")

# ---- FFCV
if ! .venv/bin/python -c 'import ffcv' 2>/dev/null; then
  say "building FFCV"
  if ! pip install --quiet --no-build-isolation --constraint "$pins" ffcv >.venv/ffcv.log 2>&1 || ! .venv/bin/python -c 'import ffcv' 2>>.venv/ffcv.log; then
    notes+=("FFCV: it could not be built (.venv/ffcv.log says why; it needs $ffcv_packages and a C++ compiler). The memory-mapped loader reads the same files")
  fi
fi

touch .venv/.ready
if [ ${#notes[@]} = 0 ]; then
  say "set up; nothing is missing"
else
  say "set up, and everything runs, without:"
  printf '  - %s\n' "${notes[@]}"
  echo "  make setup tries again after: rm .venv/.ready"
fi
