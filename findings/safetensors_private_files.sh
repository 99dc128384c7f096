#!/usr/bin/env bash
# safetensors 0.8.0: save_file writes files that only their owner can read, whatever the umask.
#
# Under umask 022 every other file is 0644, and so were those of 0.7.0. 0.8.0 writes a temporary file, which is made with mode 0600, and renames
# it: a new file is 0600, and a file that the group could read loses that when it is overwritten. Other users of a cluster, or of a container
# image, then cannot read a checkpoint. Reported as safetensors issue 782. A program mends it with os.chmod after each save.
#
# safetensors.numpy and safetensors.torch share the writer; numpy needs no torch. Exit status: 0 while this is so, 1 once it is not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cd "$work"
cat > check.py <<'PYTHON'
import os
import stat

import numpy as np
import safetensors
from safetensors.numpy import save_file


def mode(path):
    return f"{stat.S_IMODE(os.stat(path).st_mode):04o}"


os.umask(0o022)
version, new, old = safetensors.__version__, f"new-{safetensors.__version__}", f"old-{safetensors.__version__}"
for path in (old, "plain"):
    with open(path, "wb") as file:
        file.write(b"0")
os.chmod(old, 0o664)
for path in (new, old):
    save_file({"weight": np.zeros(3, np.float32)}, path)
print(f"safetensors {version}, umask 022: a new file has mode {mode(new)}, one of mode 0664 that is overwritten {mode(old)}; "
      f"expected 0644, as a plain file's {mode('plain')}, and 0664")
PYTHON
for version in 0.7.0 0.8.0; do
    "$work/venv/bin/pip" install --quiet numpy==2.2.6 "safetensors==$version"
    "$work/venv/bin/python" check.py | tee "said-$version"
done
if grep -q "new file has mode 0644, .* overwritten 0664;" said-0.7.0 && grep -q "new file has mode 0600, .* overwritten 0600;" said-0.8.0; then
    echo "as found: 0600 whatever the umask"
else
    echo "CHANGED: not as found"
    exit 1
fi
