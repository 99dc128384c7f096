"""What compare_builds.py times in each build: command lines of a user, each in a folder of its own."""

import compileall
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

HERE = Path(__file__).parents[1]
DITSCALE = (sys.executable, "-c", "from ditscale.cli import main; main()")
DEMO = "sweeps/digits_demo.yaml"
TWELVE = {"model.name": {"values": ["DiT-atto/8", "DiT-femto/4", "DiT-pico/2"]}, "seed": {"values": [0, 1, 2, 3]}}
MADE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from made_study import MASKABLE, MODELS, write_study
seeds = range(int(sys.argv[3]))
write_study(Path(sys.argv[2]), MODELS, ("baseline",), seeds, 8)
write_study(Path(sys.argv[2]), MASKABLE, ("masked",), seeds, 8)
"""


class Build:
    """A checkout, and a folder in which its commands run; what they write is gone with that folder.

    Attributes:
        scores: of the demo: score and floor by run and images seen.
        scoring: by study, what ``scoring_share`` gives.
    """

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self.scores, self.scoring = dict[str, list](), dict[str, dict[str, float]]()
        folder.mkdir()
        compileall.compile_dir(root / "ditscale", quiet=1)                     # as after a first use, whatever the environment says
        for name in ("ds_configs", "sweeps"):
            (folder / name).symlink_to(root / name)
        self.environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    @property
    def commit(self) -> str:
        said = subprocess.run(["git", "-C", str(self.root), "describe", "--always", "--dirty=+dirty", "--exclude=*"], capture_output=True, text=True)
        return said.stdout.strip() or "unknown"

    def call(self, *words: str) -> str:
        """One command, and what it prints. Raises CalledProcessError where it fails, after its words."""
        done = subprocess.run(words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            done.check_returncode()
        return done.stdout

    def ditscale(self, *words: str) -> None:
        self.call(*DITSCALE, *words)

    def benchmark(self, name: str, *words: str) -> dict:
        """What this build's own benchmark ends with."""
        return json.loads(self.call(sys.executable, str(self.root / "benchmarks" / f"{name}.py"), *words).splitlines()[-1])

    def fresh(self, name: str) -> str:
        """The name of a folder in ``runs`` that is not there yet."""
        return f"{name}-{len(list((self.folder / 'runs').glob(f'{name}-*')))}"

    def write(self, name: str, spec: dict) -> str:
        """The path of a study's file, which is called like it."""
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump({**spec, "name": name}, sort_keys=False))      # the order of phases counts
        return f"{name}.yaml"


def show_help(build: Build, options) -> Callable[[], None]:
    return lambda: build.ditscale("--help")


def plan(build: Build, options) -> Callable[[], None]:
    """Of twelve runs. The data are there."""
    _data(build)
    path = build.write("twelve", _small(options, TWELVE))
    return lambda: build.ditscale("plan", path)


def launch(build: Build, options) -> Callable[[], None]:
    """``--runs`` runs of one step of the smallest model, without scores."""
    _data(build)
    spec = _small(options, {"seed": {"values": list(range(options.runs))}})
    del spec["config"]["evaluation"]
    spec["config"]["model"] = {"name": "DiT-atto/8"}
    spec["config"]["train"] |= {"images": 32, "warmup_images": 0, "checkpoint_every_images": 32}
    path = build.write(build.fresh("launch"), spec)
    return lambda: build.ditscale("launch", path)


def report(build: Build, options) -> Callable[[], None]:
    """Of a made-up study: 20 runs a seed, with 8 evaluations each."""
    name = build.fresh("report")
    build.call(sys.executable, "-c", MADE, str(build.root / "benchmarks"), f"runs/{name}", str(options.seeds))
    return lambda: build.ditscale("report", f"runs/{name}")


def study(build: Build, options) -> Callable[[], None]:
    """Twelve runs, short and small, scored twice: the launch alone."""
    _data(build)
    name, spec = build.fresh("study"), _small(options, TWELVE)
    images = 32 * options.study_steps
    spec["config"]["train"] |= {"images": 2 * images, "warmup_images": images // 2, "checkpoint_every_images": images}
    path = build.write(name, spec)

    def work():
        build.ditscale("launch", path)
        build.scoring["study"] = scoring_share(build.folder / "runs" / name)
    return work


def demo(build: Build, options) -> Callable[[], None]:
    """What ``make demo`` does after set-up, with the old build's study for both."""
    name = build.fresh("demo")
    path = build.write(name, yaml.safe_load((options.old / DEMO).read_text()))

    def work():
        build.ditscale("data", "build", "digits", "data/digits")
        build.ditscale("launch", path)
        build.ditscale("report", f"runs/{name}")
        runs = build.folder / "runs" / name
        build.scores = {f"{path.parent.name} {line['images_seen']}": [line["score"], line["floor"]]
                        for path in sorted(runs.glob("*/evals.jsonl")) for line in _lines(path)}
        build.scoring["demo"] = scoring_share(runs)
    return work


PARTS = {"help": show_help, "plan": plan, "report": report, "study": study, "demo": demo, "launch": launch}   # each prepares, and gives what is timed


def scoring_share(runs: Path) -> dict[str, float]:
    """How many seconds of a study's runs were training and scoring (samples, features, distances), by their records; ``share`` is scoring's.

    Neither has the start of processes, nor writing checkpoints between log lines.
    """
    training, scoring = (sum(line["seconds"] for path in runs.glob(f"*/{name}.jsonl") for line in _lines(path)) for name in ("metrics", "evals"))
    return {"training_seconds": round(training, 2), "scoring_seconds": round(scoring, 2),
            "share": round(scoring / (training + scoring), 4) if training + scoring else 0.0}


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _small(options, parameters: dict) -> dict:
    """A study on the digits with the old build's demo settings, which both builds read, as stated here but for its name."""
    spec = yaml.safe_load((options.old / DEMO).read_text())
    config = {key: value for key, value in spec["config"].items() if key in ("data", "formulation", "objective", "train", "evaluation", "resources")}
    return {"version": 1, "metric": spec["metric"], "parameters": parameters, "config": config}


def _data(build: Build) -> None:
    if not (build.folder / "data").exists():
        build.ditscale("data", "build", "digits", "data/digits")
