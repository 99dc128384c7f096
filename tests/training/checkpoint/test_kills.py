"""kill -9 at random moments, relaunched each time: the losses are bit for bit those of the run that nobody touched."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from ditscale.rundir import DONE, read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_repository")]

KILLS = 20


@pytest.mark.parametrize("strategy, precision", [("zero1", "bf16"), ("zero3", "fp32")])
def test_killed_twenty_times(make_run, strategy, precision):
    """Some kills fall into the start, some into steps, some into the writing of a checkpoint: there is one every second step."""
    changes = {"evaluation": None, "train.images": 64 * 200, "train.checkpoint_every_images": 128, "train.precision": precision,
               "resources.deepspeed": f"ds_configs/{strategy}.json", "objective": {"name": "discriminative"}}
    _, whole = make_run("whole", changes)
    assert start(whole).wait() == 0
    _, run = make_run("killed", changes)
    moments, kills, writing = random.Random(0), 0, 0
    while kills < KILLS:
        worker = start(run)
        seen = images(run)
        while images(run) <= seen and worker.poll() is None:                      # into training, then some
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        if worker.poll() is not None:
            break
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        kills += 1
        writing += bool(list(run.checkpoints.glob(".images-*")))
    if worker.poll() != 0:
        assert start(run).wait() == 0
    print(f"{kills} kills, {writing} of them while a checkpoint was written")
    assert kills == KILLS and writing
    assert run.status()["state"] == DONE
    assert lines(run) == lines(whole)
    for path in list_checkpoints(whole)[-1].glob("*.safetensors"):
        assert path.read_bytes() == (list_checkpoints(run)[-1] / path.name).read_bytes(), path.name


def start(run):
    """A worker in a world of its own: other tests may have joined one, and left its address in the environment."""
    joined = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    mine = {name: value for name, value in os.environ.items() if name not in joined}
    return subprocess.Popen([sys.executable, "-m", "ditscale.studies.launch.worker", str(run.path)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, env={**mine, "DS_ACCELERATOR": "cpu"})


def images(run):
    return max((line["images_seen"] for line in read_lines(run.metrics)), default=0)


def lines(run):
    return [{name: value for name, value in line.items() if name.startswith(("images_seen", "loss/", "watch/", "grad_norm"))}
            for line in read_lines(run.metrics)]
