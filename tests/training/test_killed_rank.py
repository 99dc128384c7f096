"""kill -9 of one rank: all the others end by themselves, with one line that says so.

Measured on two shared cores: all 8 tests in 240 s, 82 of them the 16 ranks; the last rank ends 3 to 19 s after the kill.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ditscale.rundir import DONE, FAILED, RUNNING, RunDir
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.checkpoint.whole import damage

pytestmark = pytest.mark.usefixtures("in_repository")

SECONDS = 120                                                                  # in which all ranks have ended; measured: 5 to 20
JOINED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")    # by other tests, in this process
CHANGES = {"train.precision": "fp32", "train.global_batch": 64, "train.images": 64 * 1000, "train.checkpoint_every_images": 128,
           "resources.deepspeed": "ds_configs/zero2.json", "evaluation": None}
SCORED = {**CHANGES, "train.images": 128, "evaluation.samples": 151 * 4, "evaluation.batch": 4, "evaluation.sampling_steps": 4,
          "evaluation.also": ["kid"]}
del SCORED["evaluation"]


def said_by(run, rank):
    return run.path / f"rank-{rank}.txt"


def wait_for(condition, ranks):
    ends = time.monotonic() + 500
    while not condition():
        assert all(rank.poll() is None for rank in ranks) and time.monotonic() < ends
        time.sleep(0.005)


def check_ends(run, ranks, killed):
    """Kill one; the others end with code 1 and one line each that names the rank and what it has met."""
    ranks[killed].kill()
    since = time.monotonic()
    codes = [rank.wait(max(1, SECONDS + since - time.monotonic())) for rank in ranks]
    print(f"{len(ranks)} ranks, rank {killed} killed: the last ended after {time.monotonic() - since:.1f} s")
    assert codes == [-signal.SIGKILL if rank == killed else 1 for rank in range(len(ranks))]
    for rank in range(len(ranks)):
        text = said_by(run, rank).read_text()
        assert "Traceback" not in text and text.count("error: ") == (rank != killed), text
        if rank != killed:
            last = text.splitlines()[-1]
            assert last.startswith(f"error: rank {rank} of {len(ranks)} (on ")
            assert "another rank has ended or cannot be reached" in last
    assert run.status()["state"] == (FAILED if killed else RUNNING)             # rank 0 keeps it; a launcher settles what it left
    assert not killed or "another rank has ended" in run.status()["reason"]


ALONE = """
import os, sys
import torch, torch.distributed as dist
from ditscale.errors import lost_rank
dist.init_process_group("gloo")
if dist.get_rank():
    os._exit(0)
for call in (lambda: dist.all_reduce(torch.ones(1)), lambda: dist.all_reduce("no tensor")):
    try:
        call()
    except Exception as error:
        print(repr(lost_rank(error)))
"""


def test_only_an_error_that_comes_of_another_rank_is_said_to(start_ranks):
    ranks = start_ranks(2, [sys.executable, "-c", ALONE], lambda rank: subprocess.PIPE)
    lost, others = [line for line in ranks[0].communicate(timeout=SECONDS)[0].splitlines() if line.startswith(("'", '"'))]
    assert lost.startswith("'rank 0 of 2 (on ") and "ends: another rank has ended or cannot be reached (" in lost
    assert "gloo" not in lost and others == "''" and ranks[1].wait(SECONDS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 2])
def test_at_the_start(make_run, start_workers, killed):
    _, run = make_run(changes={**CHANGES, "resources.accelerators_per_run": 4})
    ranks = start_workers(run, 4)
    wait_for(run.tensorboard.exists, ranks)                                 # after all have met, before the first step
    check_ends(run, ranks, killed)
    assert not run.metrics.exists() and not list_checkpoints(run)


@pytest.mark.slow
@pytest.mark.parametrize("size, killed", [(4, 0), (16, 11)])
def test_while_a_checkpoint_is_written(make_run, start_workers, size, killed):
    _, run = make_run(changes={**CHANGES, "resources.accelerators_per_run": size, "resources.deepspeed": "ds_configs/zero3.json"})
    ranks = start_workers(run, size)
    wait_for(lambda: list(run.checkpoints.glob(".images-*")), ranks)
    check_ends(run, ranks, killed)
    for saved in list_checkpoints(run):                                         # where it was written just before the kill
        assert not damage(saved, [path.name for path in saved.glob("*.safetensors")])


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_while_a_checkpoint_is_scored(make_run, start_workers, killed):
    """Rank 0's features are left behind by the kill; the next start removes them, and scores what was not."""
    _, run = make_run(changes={**SCORED, "resources.accelerators_per_run": 4})
    ranks = start_workers(run, 4)
    wait_for(lambda: list(run.path.glob(".features-*/pooled.npy")), ranks)
    check_ends(run, ranks, killed)
    assert bool(list(run.path.glob(".features-*"))) == (killed == 0)
    make_run(changes=SCORED)
    [alone] = start_workers(run, 1)
    assert alone.wait(SECONDS) == 0, said_by(run, 0).read_text()
    assert run.status()["state"] == DONE and not list(run.path.glob(".*features-*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["loading", "training"])
def test_under_the_launcher(tmp_path, digits_values, moment):
    """While ranks load PyTorch none knows of the others: there the launcher ends them."""
    digits_values["evaluation"] = None
    digits_values["train"].update(images=64 * 10_000, precision="fp32")
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
                                    "runs_dir": str(tmp_path / "runs")}))
    [planned] = expand(load_spec(spec), str(spec))
    process = subprocess.Popen([sys.executable, "-c", "from ditscale.cli import main; main()", "train", str(spec),
                                "resources.accelerators_per_run=4"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={name: value for name, value in os.environ.items() if name not in JOINED})
    try:
        wait_for(lambda: len(workers(planned.run)) == 4 and (moment == "loading" or planned.run.metrics.exists()), [process])
        os.kill(workers(planned.run)[2], signal.SIGKILL)
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 1 and "Traceback" not in said, said
    assert planned.run.status()["state"] == FAILED and f"failed: {planned.run.status()['images_seen']:,} images" in said
    assert not workers(planned.run) and not planned.run.is_locked()


def workers(run: RunDir) -> dict[int, int]:
    """The processes that work on a run on this machine, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:                                                        # it has ended
            continue
        if str(run.path).encode() in words and b"ditscale.studies.launch.worker" in words:
            found |= {int(name.removeprefix(b"RANK=")): int(process.name) for name in variables if name.startswith(b"RANK=")}
    return found
