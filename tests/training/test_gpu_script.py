"""benchmarks/gpu.sh runs whole, here on a CPU with the smallest model."""

import json
import subprocess

import pytest


@pytest.mark.slow
def test_all_parts_run_and_say_what_they_measured(repository, tmp_path):
    done = subprocess.run(["bash", "benchmarks/gpu.sh", "--device", "cpu", "--tiny", "--out", str(tmp_path)], cwd=repository,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout
    parity, resume, throughput, pictures = (json.loads((tmp_path / f"gpu_{part}.json").read_text())["cases"]
                                            for part in ("parity", "resume", "throughput", "pictures"))
    assert len(parity) == 12 and all(case["near"] for case in parity)
    assert all(case["repeats"] and case["same"] for case in resume)
    assert all(case["images_per_second"] > 0 and case["peak_memory_gib"] > 0 for case in throughput)
    assert pictures[0]["last_loss"] < pictures[0]["first_loss"]
    assert json.loads((tmp_path / "gpu_step.json").read_text())["ratio"] > 0


def test_a_wrong_option_is_named(repository):
    done = subprocess.run(["bash", "benchmarks/gpu.sh", "--fast"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --fast is not an option")
