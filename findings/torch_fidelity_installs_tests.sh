#!/usr/bin/env bash
# torch-fidelity 0.4.0 installs its own test suite as a top-level package named "tests".
#
# A regular package anywhere on the path wins over a folder without __init__.py, so after this installation a project's own folder
# tests/ of that kind cannot be imported, even from the project's root: `python -m tests.mine` ends in "No module named tests.mine",
# and `import tests` gives torch-fidelity's. A project escapes with an __init__.py in its folder.
#
# The package's dependencies are not installed: no code of it runs. Exit status: 0 while this is so, 1 once it is not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
python=$work/venv/bin/python
mkdir -p "$work/project/tests"
cd "$work/project"
echo 'print("the tests of the project")' > tests/mine.py

holds=yes
check() {  # what, expected status, command: runs it in the project's root and shows the last line of what it prints
    local what=$1 expected=$2 status=0
    shift 2
    "$@" > "$work/out.txt" 2>&1 || status=$?
    sed -i "s#$work/##g" "$work/out.txt"
    echo "$what: status $status, $(tail -n 1 "$work/out.txt")"
    [ "$status" = "$expected" ] || holds=no
}

check "before, python -m tests.mine" 0 "$python" -m tests.mine
"$python" -m pip install --quiet --no-deps torch-fidelity==0.4.0
check "installed" 0 "$python" -c "import importlib.metadata as m; print('torch-fidelity', m.version('torch-fidelity'), 'with',
    sum(f.parts[0] == 'tests' and f.suffix == '.py' for f in m.files('torch-fidelity')), 'Python files in tests/')"
echo "expected: as before"
check "after, python -m tests.mine" 1 "$python" -m tests.mine
grep -q "No module named tests.mine" "$work/out.txt" || holds=no
check "after, import tests" 0 "$python" -c "import tests; print(tests.__file__)"
grep -q "site-packages/tests/__init__.py" "$work/out.txt" || holds=no
touch tests/__init__.py
check "with tests/__init__.py, python -m tests.mine" 0 "$python" -m tests.mine

if [ "$holds" = yes ]; then echo "as found: the project's folder is hidden"; else echo "CHANGED: not as found"; exit 1; fi
