"""This build against another checkout of ditscale, in turns on this machine: the ratios of issue 23. ``compare_builds.sh`` checks it out.

    python benchmarks/compare_builds.py --old FOLDER [--parts help,plan,launch,report,demo] [--runs 200] [--rounds 2]

A part is one command line of a user, run in a folder of its own by this Python with one build's package before all others; "old, new" is
a round. Of each: seconds on the clock, and processor seconds of all its processes, which a machine shared with others leaves
comparable. A ratio is new / old, of the medians. The demo's scores are compared number by number. The last line is one JSON object.
"""

import argparse
import compileall
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from tiny import parse

HERE = Path(__file__).parents[1]
DITSCALE = (sys.executable, "-c", "from ditscale.cli import main; main()")
DEMO = "sweeps/digits_demo.yaml"
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
    """A checkout, and a folder in which its commands run; what they write is gone with that folder."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder, self.scores = root, folder, dict[str, list]()
        folder.mkdir()
        compileall.compile_dir(root / "ditscale", quiet=1)                     # as after a first use, whatever the environment says
        for name in ("ds_configs", "sweeps"):
            (folder / name).symlink_to(root / name)
        self.environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    @property
    def commit(self) -> str:
        said = subprocess.run(["git", "-C", str(self.root), "describe", "--always", "--dirty=+dirty", "--exclude=*"], capture_output=True, text=True)
        return said.stdout.strip() or "unknown"

    def call(self, *words: str) -> None:
        """One command. Raises CalledProcessError where it fails, after its words."""
        done = subprocess.run(words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            done.check_returncode()

    def ditscale(self, *words: str) -> None:
        self.call(*DITSCALE, *words)

    def fresh(self, name: str) -> str:
        """The name of a folder in ``runs`` that is not there yet."""
        return f"{name}-{len(list((self.folder / 'runs').glob(f'{name}-*')))}"


def show_help(build: Build, options) -> Callable[[], None]:
    return lambda: build.ditscale("--help")


def plan(build: Build, options) -> Callable[[], None]:
    _data(build)
    return lambda: build.ditscale("plan", DEMO)


def launch(build: Build, options) -> Callable[[], None]:
    """``--runs`` runs of one step of the smallest model, without scores."""
    _data(build)
    spec = yaml.safe_load((HERE / DEMO).read_text())
    config = {key: value for key, value in spec["config"].items() if key != "evaluation"}
    config["model"] = {"name": "DiT-atto/8"}
    config["train"] = {**config["train"], "images": 32, "warmup_images": 0, "checkpoint_every_images": 32}
    config["resources"] = {"deepspeed": "ds_configs/zero1.json"}
    name = build.fresh("launch")
    (build.folder / f"{name}.yaml").write_text(yaml.safe_dump({
        "version": 1, "name": name, "metric": spec["metric"], "config": config, "parameters": {"seed": {"values": list(range(options.runs))}}}))
    return lambda: build.ditscale("launch", f"{name}.yaml")


def report(build: Build, options) -> Callable[[], None]:
    """Of a made-up study: 20 runs a seed, with 8 evaluations each."""
    name = build.fresh("report")
    build.call(sys.executable, "-c", MADE, str(build.root / "benchmarks"), f"runs/{name}", str(options.seeds))
    return lambda: build.ditscale("report", f"runs/{name}")


def demo(build: Build, options) -> Callable[[], None]:
    """What ``make demo`` does after set-up, with the old build's study for both."""
    name = build.fresh("demo")
    spec = yaml.safe_load((options.old / DEMO).read_text())
    (build.folder / f"{name}.yaml").write_text(yaml.safe_dump({**spec, "name": name}, sort_keys=False))     # the order of phases counts

    def work():
        build.ditscale("data", "build", "digits", "data/digits")
        build.ditscale("launch", f"{name}.yaml")
        build.ditscale("report", f"runs/{name}")
        build.scores = {f"{path.parent.name} {line['images_seen']}": [line["score"], line["floor"]]
                        for path in sorted((build.folder / "runs" / name).glob("*/evals.jsonl"))
                        for line in map(json.loads, path.read_text().splitlines())}
    return work


PARTS = {"help": show_help, "plan": plan, "launch": launch, "report": report, "demo": demo}   # each prepares, and gives what is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, default=HERE, help="the other checkout; this one where none is given")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all of %(default)s")
    parser.add_argument("--runs", type=int, default=200, help="of the part launch (200)")
    parser.add_argument("--seeds", type=int, default=10, help="of the part report (10)")
    parser.add_argument("--rounds", type=int, default=2, help="of every part (2)")
    options = parse(parser, parts="help", rounds=1, runs=2, seeds=1)
    with tempfile.TemporaryDirectory(prefix="ditscale-builds-") as folder:
        builds = {"old": Build(options.old.resolve(), Path(folder) / "old"), "new": Build(HERE, Path(folder) / "new")}
        measured = {part: [one_round(part, builds, options) for _ in range(options.rounds)] for part in options.parts.split(",")}
        scores = {name: build.scores for name, build in builds.items()}
    print(json.dumps({"benchmark": "compare_builds", "tiny": options.tiny, **{name: build.commit for name, build in builds.items()},
                      "ratios": {part: ratios(rounds) for part, rounds in measured.items()}, **compared(**scores), "launched_runs": options.runs,
                      "cores": len(os.sched_getaffinity(0)), "load_at_the_end": os.getloadavg()[0], "measured": measured}))


def one_round(part: str, builds: dict[str, Build], options) -> dict[str, dict[str, float]]:
    found = {}
    for name, build in builds.items():
        work = PARTS[part](build, options)
        began, used = time.perf_counter(), _children()
        work()
        found[name] = {"seconds": time.perf_counter() - began, "cpu_seconds": _children() - used}
        print(part, name, found[name], flush=True)
    return found


def ratios(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """New / old, of the medians."""
    def median(build: str, kind: str) -> float:
        return statistics.median(one[build][kind] for one in rounds)

    return {kind: round(median("new", kind) / median("old", kind), 4) for kind in ("seconds", "cpu_seconds")}


def compared(old: dict[str, list], new: dict[str, list]) -> dict[str, dict[str, int]]:
    """How many scores of the demo are the same, bit by bit, of those that both builds have."""
    both = old.keys() & new.keys()
    return {"demo_scores": {"old": len(old), "new": len(new), "of_both": len(both), "same": sum(old[key] == new[key] for key in both)}} if old else {}


def _data(build: Build) -> None:
    if not (build.folder / "data").exists():
        build.ditscale("data", "build", "digits", "data/digits")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
