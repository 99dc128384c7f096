"""A sample of benchmarks/hostile.py: no trace, no silent wrong result, nothing left behind, no silent wait."""

import json
import subprocess
import sys

CASES = 150


def test_a_sample_of_hostile_inputs(repository):
    done = subprocess.run([sys.executable, str(repository / "benchmarks" / "hostile.py"), "--sample", str(CASES)], cwd=repository, text=True,
                          capture_output=True, timeout=1500)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout
    assert found["cases"] == CASES and len(found["families"]) >= 10
