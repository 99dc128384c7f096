"""Hostile and careless inputs through every command: each is refused in one line or does what is right, and leaves nothing behind.

    python benchmarks/hostile.py                 # all cases, minutes on 2 cores; the last line is one JSON object
    python benchmarks/hostile.py --sample 150    # an even sample of them
    python benchmarks/hostile.py --only specs/train.lr

Each case runs in a process of its own, forked from one that has the libraries loaded, in an empty folder. Counted per case:

- ``trace``: a stack trace, a signal, or an exit code that no command documents;
- ``raw``: a refusal that is not one line beginning with "error:" (or click's or argparse's own usage error);
- ``silent``: an input with a known right answer got another one, or a wrong input got exit code 0;
- ``leftover``: a refused command left files behind;
- ``wait``: nothing printed for ``--limit`` seconds, or no end after three times that.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")                                  # a forked child has no thread pool to wait for
os.environ.setdefault("MPLBACKEND", "agg")

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hostile_cases import Case, families

FAULTS = ("trace", "raw", "silent", "leftover", "wait")
EXIT_CODES = (0, 1, 2, 75)                                                     # done, failed, refused, stopped early


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, metavar="N", help="an even sample of N cases")
    parser.add_argument("--tiny", action="store_true", help="the same as --sample 12, without a trained run")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this text")
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="longest silence (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        cases = [case for case in families(Path(folder) / "given", trained=not arguments.tiny) if arguments.only in case.name]
        if count := 12 if arguments.tiny else arguments.sample:
            cases = [cases[i * len(cases) // count] for i in range(min(count, len(cases)))]
        preload()
        start, faults = time.perf_counter(), []
        for case, fault, words in run_all(cases, Path(folder) / "work", arguments.limit, arguments.jobs):
            if fault:
                faults.append(fault)
                print(f"{fault:8} {case.name}: {words}", flush=True)
    counts = Counter(faults)
    print(json.dumps({"benchmark": "hostile", "tiny": arguments.tiny, "cases": len(cases), "families": Counter(case.name.split("/")[0] for case in cases),
                      **{fault: counts[fault] for fault in FAULTS}, "seconds": round(time.perf_counter() - start, 1)}))
    sys.exit(bool(faults))


def preload():
    """What most commands import, once for all children."""
    import matplotlib.pyplot  # noqa: E401, F401
    import torch

    from ditscale.cli import main  # noqa: F401
    from ditscale.evaluation.sampling import sampleset  # noqa: F401
    from ditscale.figures.plots import scaling_law, training_compute  # noqa: F401
    from ditscale.report import report  # noqa: F401
    from ditscale.studies.launch import start, status  # noqa: F401

    torch.set_num_threads(1)


def run_all(cases: list[Case], work: Path, limit: float, jobs: int):
    """Yields (case, fault or "", what was printed), as the cases end."""
    waiting, active = list(reversed(cases)), {}
    while waiting or active:
        while waiting and len(active) < jobs:
            case = waiting.pop()
            folder = work / str(len(waiting))
            folder.mkdir(parents=True)
            words = case.make(folder)
            before, output = files_in(folder), folder.with_suffix(".out")
            active[start(words, folder, output)] = (case, folder, output, before, time.monotonic())
        time.sleep(0.01)
        for pid, (case, folder, output, before, since) in list(active.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            waited = time.monotonic() - since
            silent_for = time.time() - max(output.stat().st_mtime, time.time() - waited)
            if not done and (silent_for > limit or waited > 3 * limit):
                os.killpg(pid, 9)
                os.waitpid(pid, 0)
                yield case, "wait", f"{waited:.0f} s"
            elif done:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, 9)                                          # a worker that outlived its command
                said = output.read_text(errors="replace")
                yield case, *judge(case, os.waitstatus_to_exitcode(status), said, folder, files_in(folder) - before)
            else:
                continue
            del active[pid]
            shutil.rmtree(folder, ignore_errors=True)
            output.unlink(missing_ok=True)


def start(words: list[str], folder: Path, output: Path) -> int:
    """Fork a child that runs one command in ``folder``; returns its process id, which is its group's too."""
    sys.stdout.flush()
    output.touch()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1), os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = call(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def call(words: list[str]) -> int:
    """``analysis/NAME.py ...`` or a command of ``ditscale``."""
    if words[0].startswith("analysis/"):
        import importlib

        return importlib.import_module(f"ditscale.figures.plots.{Path(words[0]).stem}").main(words[1:])
    from ditscale.cli import main as ditscale

    return ditscale(words, prog_name="ditscale")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def judge(case: Case, code: int, said: str, folder: Path, new: set[str]) -> tuple[str, str]:
    """The fault of one case, or "", and the words that show it."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "(nothing printed)"
    if "Traceback (most recent call last)" in said or code not in EXIT_CODES:
        return "trace", f"exit code {code}: {last}"
    if code == 2:
        errors = [line for line in lines if line.startswith(("error:", "Error:")) or ": error: " in line]
        if len(errors) != 1 or not errors[0].isprintable() or len(errors[0]) > 2000:
            return "raw", last
    if code == 2 and (new := {name for name in new if not case.may_leave(name)}):
        return "leftover", f"{sorted(new)[:3]} after: {last}"
    if case.right == "refused" and code == 0:
        return "silent", f"accepted; {last}"
    if case.right == "fine" and code:
        return "silent", f"exit code {code}: {last}"
    if case.check and (wrong := case.check(folder, code, said)):
        return "silent", f"{wrong}; {last}"
    return "", ""


if __name__ == "__main__":
    main()
