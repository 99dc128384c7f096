"""What `ditscale report` takes, and with ``--commands`` the table, the fit and the frontier alone: a made-up study, from its files.

    python benchmarks/report.py [--rounds 2] [--runs 200] [--checkpoints 8] [--recipes 1] [--commands report,table,fit,frontier]

Twelve models as baseline, eight of them masked too; a multiple of 20 runs. "Seconds" include the start of Python, as a user waits for
it; memory is that of a command's processes together (Linux alone). The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made_study import MASKABLE, MODELS, write_study
from tiny import parse

COMMANDS = {"report": ["report", "STUDY"], "table": ["collect", "STUDY", "--out", "STUDY/table.csv"],
            "fit": ["figure", "power_law", "STUDY", "--where", "variant=baseline"], "frontier": ["figure", "frontier", "STUDY"]}
DITSCALE = (sys.executable, "-c", "from ditscale.cli import main; main()")
OF_A_SEED = len(MODELS) + len(MASKABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--checkpoints", type=int, default=8, help="evaluations of each run")
    parser.add_argument("--recipes", type=int, default=1, help="learning rates; the runs are divided among them, as seeds")
    parser.add_argument("--commands", default="report", help=f"of {','.join(COMMANDS)}")
    options = parse(parser, rounds=1, runs=20)
    seeds = range(options.runs // (OF_A_SEED * options.recipes))
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "made"
        runs = write_study(study, MODELS, ("baseline",), seeds, options.checkpoints, recipes=options.recipes)
        runs += write_study(study, MASKABLE, ("masked",), seeds, options.checkpoints, recipes=options.recipes)
        measured = {name: [one_round(name, study) for _ in range(options.rounds)] for name in options.commands.split(",")}
        page = study / "analysis" / "report.html"
        kilobytes = page.stat().st_size / 1000 if page.exists() else None
    medians = {name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]} for name, rounds in measured.items()}
    print(json.dumps({"benchmark": "report", "tiny": options.tiny, "runs": len(runs), "evaluations": len(runs) * options.checkpoints,
                      "recipes": options.recipes, "medians": medians, "report_kilobytes": kilobytes,
                      "cores": len(os.sched_getaffinity(0)), "load_at_the_end": os.getloadavg()[0], "measured": measured}))


def one_round(name: str, study: Path) -> dict:
    """Seconds on the clock, and of processors, which a machine shared with others leaves comparable; the most memory seen, in GiB."""
    words = [word.replace("STUDY", str(study)) for word in COMMANDS[name]]
    wall, cpu, most = time.perf_counter(), _children(), 0.0
    with subprocess.Popen([*DITSCALE, *words], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, sum(map(_memory_kib, [process.pid, *_forks(process.pid)])) / 2**20)
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"ditscale {' '.join(words)} ended with {process.returncode}")
    found = {"seconds": time.perf_counter() - wall, "cpu_seconds": _children() - cpu, "peak_gib": most}
    print(name, found, flush=True)
    return found


def _forks(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _memory_kib(pid: int) -> int:
    """Of a process, with its share of the pages that it has in common with others (PSS); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
