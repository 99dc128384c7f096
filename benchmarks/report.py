"""How long `ditscale report` takes: a made-up study of 200 runs with 8 evaluations each, from its files to report.html.

    python benchmarks/report.py [--rounds 2] [--seeds 10]

Twelve models as baseline, eight of them masked too, ten seeds each.
"Seconds" include the start of Python, as a user waits for it. The last line is one JSON object.
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

EVALUATIONS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=10, help="20 runs for each")
    options = parse(parser, rounds=1, seeds=1)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "made"
        runs = write_study(study, MODELS, ("baseline",), range(options.seeds), EVALUATIONS)
        runs += write_study(study, MASKABLE, ("masked",), range(options.seeds), EVALUATIONS)
        rounds = [one_round(study) for _ in range(options.rounds)]
        kilobytes = (study / "analysis" / "report.html").stat().st_size / 1000
    median = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    print(json.dumps({"benchmark": "report", "tiny": options.tiny, "runs": len(runs), "evaluations": len(runs) * EVALUATIONS, **median,
                      "report_kilobytes": kilobytes,
                      "cores": len(os.sched_getaffinity(0)), "load_at_the_end": os.getloadavg()[0], "rounds": rounds}))


def one_round(study: Path) -> dict:
    """Seconds on the clock, and of processors, which a machine shared with others leaves comparable."""
    wall, cpu = time.perf_counter(), _children()
    subprocess.run([sys.executable, "-c", "from ditscale.cli import main; main()", "report", str(study)], check=True, stdout=subprocess.DEVNULL)
    found = {"seconds": time.perf_counter() - wall, "cpu_seconds": _children() - cpu}
    print(found, flush=True)
    return found


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
