"""This build against another checkout of ditscale, in turns on this machine: the ratios of issue 23. ``compare_builds.sh`` checks it out.

    python benchmarks/compare_builds.py --old FOLDER [--only help,plan,report,study,demo,step,sampling] [--launch] [--rounds 2]

``help`` to ``launch`` are command lines of a user (build_parts.py), run in a folder of its own by this Python with one build's package
before all others; "old, new" is a round. Of each: seconds on the clock, and processor seconds of all its processes, which a machine shared
with others leaves comparable. A ratio is new / old, of the medians: below 1, this build is faster. The demo's scores are compared number
by number, and of ``demo`` and ``study`` (12 runs, scored twice) the share of seconds that was scoring is given for both builds.

``step`` is each build's train_step.py in turns (`train()`, new / old, and over its own plain loop), then this build's released_loop.py,
eager and compiled; ``sampling`` is this build's sample_pipeline.py, eager and compiled. These two divide the peer by ours: above 1, ours
is faster. ``launch`` (200 runs) takes long and is left out without --launch or --only. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

from build_parts import DEMO, HERE, PARTS, Build
from tiny import parse

PEERS = ("step", "sampling")
CASES = "DiT-S/8:64,DiT-S/2:8,DiT-B/4:24"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, default=HERE, help="the other checkout; this one where none is given")
    parser.add_argument("--only", help=f"of {','.join([*PARTS, *PEERS])}; default: all but launch")
    parser.add_argument("--launch", action="store_true", help="the part launch too")
    parser.add_argument("--runs", type=int, default=200, help="of the part launch (200)")
    parser.add_argument("--seeds", type=int, default=10, help="of the part report: 20 runs each (10)")
    parser.add_argument("--study-steps", type=int, default=60, help="of the part study, before each of two scores (60)")
    parser.add_argument("--cases", default=CASES, help="of the part step, model:batch (%(default)s)")
    parser.add_argument("--precisions", default="fp32,bf16", help="of the part step (%(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="step and sampling eager alone; compiling takes a minute or more per case")
    parser.add_argument("--rounds", type=int, default=2, help="of every part (2)")
    options = parse(parser, only="help", rounds=1, runs=2, seeds=1, study_steps=1, cases="DiT-atto/8:2", precisions="fp32", no_compile=True)
    chosen = options.only.split(",") if options.only else [name for name in (*PARTS, *PEERS) if name != "launch" or options.launch]
    if unknown := [name for name in chosen if name not in (*PARTS, *PEERS)]:
        parser.error(f"--only {unknown[0]}: there is no such part; choose of {','.join([*PARTS, *PEERS])}")
    if not (options.old / DEMO).is_file():
        parser.error(f"--old {options.old} has no {DEMO}: give a checkout of ditscale")
    options.old = options.old.resolve()
    with tempfile.TemporaryDirectory(prefix="ditscale-builds-") as folder:
        builds = {"old": Build(options.old, Path(folder) / "old"), "new": Build(HERE, Path(folder) / "new")}
        measured = {part: [one_round(part, builds, options) for _ in range(options.rounds)] for part in chosen if part in PARTS}
        peers = {part: {"step": step, "sampling": sampling}[part](builds, options) for part in chosen if part in PEERS}
        scores = {name: build.scores for name, build in builds.items()}
        scoring = {name: build.scoring for name, build in builds.items() if build.scoring}
    print(json.dumps({"benchmark": "compare_builds", "tiny": options.tiny, **{name: build.commit for name, build in builds.items()},
                      "ratios": {part: ratios(rounds) for part, rounds in measured.items()}, "peers": peers, "scoring": scoring, **compared(**scores),
                      "launched_runs": options.runs if "launch" in chosen else 0, "cores": len(os.sched_getaffinity(0)),
                      "load_at_the_end": os.getloadavg()[0], "measured": measured}))


def one_round(part: str, builds: dict[str, Build], options) -> dict[str, dict[str, float]]:
    found = {}
    for name, build in builds.items():
        work = PARTS[part](build, options)
        began, used = time.perf_counter(), _children()
        work()
        found[name] = {"seconds": time.perf_counter() - began, "cpu_seconds": _children() - used}
        print(part, name, found[name], flush=True)
    return found


def step(builds: dict[str, Build], options) -> dict:
    """Seconds of a training step: both builds, case by case, and this one against the released loop."""
    found: dict = {"train_step": []}
    for case in options.cases.split(","):
        for precision in options.precisions.split(","):
            found["train_step"].append(_train_step(case, precision, builds, options))
            print("step", found["train_step"][-1], flush=True)
    words = ["--cases", options.cases, "--precisions", options.precisions, *(["--rounds", "3"] if options.tiny else [])]
    for mode, more in _modes(options):
        found[f"released_loop_{mode}"] = builds["new"].benchmark("released_loop", *words, *more)["cases"]
        print("step", mode, [(one["model"], one["precision"], one["released_over_ours"]) for one in found[f"released_loop_{mode}"]], flush=True)
    return found


def _train_step(case: str, precision: str, builds: dict[str, Build], options) -> dict:
    model, _, batch = case.partition(":")
    words = ["--model", model, "--batch", batch, "--precision", precision, "--rounds", "3" if options.tiny else "12"]
    rounds = [{name: build.benchmark("train_step", *words) for name, build in builds.items()} for _ in range(options.rounds)]
    seconds = {name: statistics.median(one[name]["train_step_seconds"] for one in rounds) for name in builds}
    over_plain = {name: statistics.median(one[name]["ratio"] for one in rounds) for name in builds}
    return {"model": model, "batch": int(batch), "precision": precision, "train_step_seconds": seconds, "over_plain_loop": over_plain,
            "ratio": round(seconds["new"] / seconds["old"], 4), "ratio_over_plain": round(over_plain["new"] / over_plain["old"], 4)}


def sampling(builds: dict[str, Build], options) -> dict:
    """This build against diffusers' pipeline."""
    return builds["new"].benchmark("sample_pipeline", *([] if options.no_compile else ["--compile"]), *(["--tiny"] if options.tiny else []))


def _modes(options) -> list[tuple[str, list[str]]]:
    return [("eager", []), *([] if options.no_compile else [("compiled", ["--compile"])])]


def ratios(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """New / old, of the medians."""
    def median(build: str, kind: str) -> float:
        return statistics.median(one[build][kind] for one in rounds)

    return {kind: round(median("new", kind) / median("old", kind), 4) for kind in ("seconds", "cpu_seconds")}


def compared(old: dict[str, list], new: dict[str, list]) -> dict[str, dict[str, int]]:
    """How many scores of the demo are the same, bit by bit, of those that both builds have."""
    both = old.keys() & new.keys()
    return {"demo_scores": {"old": len(old), "new": len(new), "of_both": len(both), "same": sum(old[key] == new[key] for key in both)}} if old else {}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
