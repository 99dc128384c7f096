"""Every benchmark runs, at its smallest size, as its head says: as a script. Its numbers then say nothing and are not looked at."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ditscale.data.ffcv_import import load_ffcv

FOLDER = Path(__file__).parents[1] / "benchmarks"
JOINED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")     # of a world that another test here has joined
HELPERS = ("build_parts", "made_data", "made_study", "tiny")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)
ARGUMENTS = {"gpu": ["pictures", "--out", os.devnull]}                         # all its parts: tests/training/test_gpu_script.py
LONGER = {"communication", "forecast", "report"}                               # ranks, a probe and a launch, all figures: 20 s and more


def not_a_number(word):
    raise ValueError(f"{word} is not JSON")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONGER else []) for name in NAMES])
def test_it_runs_and_ends_in_one_json_object(name, repository, tmp_path):
    if name == "loader" and not load_ffcv()[0]:
        pytest.skip(f"it measures FFCV, which is not there: {load_ffcv()[1]}")
    arguments = [str(tmp_path) if word == os.devnull else word for word in ARGUMENTS.get(name, [])]
    mine = {name: value for name, value in os.environ.items() if name not in JOINED}
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), *arguments, "--tiny"], cwd=repository, text=True,
                          capture_output=True, timeout=500, env={**mine, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"})
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1], parse_constant=not_a_number)
    assert found["benchmark"].split("_")[0] == name.split("_")[0] and found["tiny"] is True and len(found) > 3


@pytest.mark.parametrize("name", [*NAMES, *HELPERS])
def test_it_shadows_no_module(name, tmp_path):
    """A script's folder comes first on the path: benchmarks/coverage.py was what numba got for the package ``coverage``."""
    spec = importlib.util.find_spec(name)
    assert spec is None or Path(spec.origin).parent == FOLDER
    assert name not in sys.stdlib_module_names


def test_what_is_given_beside_tiny_stays(repository):
    done = subprocess.run([sys.executable, str(FOLDER / "frechet.py"), "--tiny", "--dimensions", "16"], cwd=repository,
                          text=True, capture_output=True, timeout=200)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["dimensions"], found["samples"]) == (16, 100)


def test_the_share_of_a_study_that_is_scoring(benchmark_module, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text('{"seconds": 2.5}\n{"seconds": 0.5}\n')
    found = benchmark_module("build_parts").scoring_share(tmp_path)
    assert found == {"training_seconds": 3.0, "scoring_seconds": 0, "share": 0.0}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "evals.jsonl").write_text('{"seconds": 1.0, "score": 7.0}\n')
    assert benchmark_module("build_parts").scoring_share(tmp_path) == {"training_seconds": 3.0, "scoring_seconds": 1.0, "share": 0.25}
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (tmp_path / "b" / "evals.jsonl").unlink()
    assert benchmark_module("build_parts").scoring_share(tmp_path)["share"] == 0.0


@pytest.mark.parametrize("words, says", [(["--only", "help,speed"], "--only speed: there is no such part"), (["--old", "nowhere"], "--old nowhere has no ")])
def test_a_comparison_of_what_is_not_there(repository, words, says):
    done = subprocess.run([sys.executable, str(FOLDER / "compare_builds.py"), *words], cwd=repository, text=True, capture_output=True, timeout=100)
    assert done.returncode == 2 and says in done.stderr and not done.stdout
