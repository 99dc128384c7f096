"""The wheel alone, in a clean venv and an empty folder: what somebody has who never saw the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

PARTS = ("ditscale", "ds_configs", "sweeps", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SMALL = ("model.name=DiT-atto/8", "objective.name=baseline", "train.images=640", "train.global_batch=64", "train.warmup_images=64",
         "train.checkpoint_every_images=320", "evaluation.samples=64", "evaluation.sampling_steps=2")


def run(command, folder, **more):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([*map(str, command)], cwd=folder, env={**clean, **more}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """The wheel, built from a copy: a build leaves folders in its source."""
    source = tmp_path_factory.mktemp("source")
    for name in PARTS:
        path = repository / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, source / name)
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", source / "dist", "."], source)
    return next((source / "dist").glob("ditscale-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``installed(*words)`` runs the wheel's ``ditscale`` in a folder that was empty; requirements come from the test's own Python."""
    environment, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty")
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    paths = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "requirements.pth").write_text("\n".join(paths))                   # an editable install there is not followed: .pth of a .pth
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], folder)
    launcher = environment / "bin" / "deepspeed"                               # as pip would have made it with the requirement
    launcher.write_text(f"#!{python}\nfrom deepspeed.launcher.runner import main\nmain()\n")
    launcher.chmod(0o755)

    def ditscale(*words):
        return run([environment / "bin" / "ditscale", *words], folder, PATH=f"{environment / 'bin'}:{os.environ['PATH']}")
    ditscale.python, ditscale.folder, ditscale.environment = python, folder, environment
    return ditscale


def test_a_study_from_an_empty_folder(installed):
    where = run([installed.python, "-c", "import ditscale; print(ditscale.__file__)"], installed.folder)
    assert Path(where.strip()).is_relative_to(installed.environment)
    said = installed("init", "digits")
    commands = [line.strip() for line in said.splitlines() if line.startswith("  ditscale ")]
    assert [line.split()[1] for line in commands] == ["data", "plan", "launch", "predict", "launch", "report"]
    data, plan, *_, report = (line.split()[1:] for line in commands)
    assert "feature network trained" in installed(*data)
    assert "DiT-nano-2" in installed(*plan)
    installed("train", plan[-1], *SMALL)
    assert "report.html" in installed(*report)
    run_folder, = (path for path in (installed.folder / "runs/digits-demo").iterdir() if (path / "run.json").exists())
    assert yaml.safe_load((run_folder / "run.json").read_text())["environment"]["git_commit"] is None
    assert (installed.folder / "runs/digits-demo/analysis/report.html").stat().st_size > 10_000
    page = (installed.folder / "runs/digits-demo/analysis/report.html").read_text()
    assert "ditscale init digits\nditscale launch digits_demo.yaml" in page
    installed("figure", "training_curves", "runs/digits-demo")


def test_every_strategy_and_template_is_in_it(installed, repository):
    code = ("from ditscale.studies.spec.templates import summaries\n"
            "from ditscale.training.zero.strategyfile import STRATEGIES, read_strategy\n"
            "for path in sorted(STRATEGIES.glob('*.json')): print(path.stem, read_strategy(path.stem).stage)\n"
            "print(len(summaries()))\n")
    *said, count = run([installed.python, "-c", code], installed.folder).split()
    assert int(count) == len(list((repository / "sweeps").rglob("*.yaml")))
    assert said[::2] == sorted(path.stem for path in (repository / "ds_configs").glob("*.json")) and "3" in said[1::2]


def test_types_are_announced(installed):
    code = "import importlib.resources; print(importlib.resources.files('ditscale').joinpath('py.typed').is_file())"
    assert run([installed.python, "-c", code], installed.folder).strip() == "True"
