#!/usr/bin/env bash
# This build against COMMIT, in turns on this machine; the last line is one JSON object with every ratio, new / old.
#
#     bash benchmarks/compare_builds.sh COMMIT [--only help,plan,report,study,demo,step,sampling] [--launch] [--rounds 2] ...
#
# Options are those of compare_builds.py. COMMIT is checked out in a temporary folder that is removed at the end. Both run with this
# checkout's Python environment.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "error: which COMMIT? See the head of this file" >&2; exit 2; }
[ -x .venv/bin/python ] && python=.venv/bin/python || python=python3
folder=$(mktemp -d)
trap 'git worktree remove --force "$folder/old" 2>/dev/null; rm -rf "$folder"' EXIT
git worktree add --quiet --detach "$folder/old" "$1"
shift
PYTHONPATH=$PWD "$python" benchmarks/compare_builds.py --old "$folder/old" "$@"
