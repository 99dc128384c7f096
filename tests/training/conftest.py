"""A world of one in this process, and worlds of more in others."""

import gc
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ditscale.config import resolve
from ditscale.rundir import RunDir


@pytest.fixture(scope="session")
def world():
    from ditscale.training.distributed import join_world

    return join_world()


@pytest.fixture(scope="module", autouse=True)
def engines_end():
    """Engines that a file's tests made themselves would stay in memory to the end."""
    yield
    if "deepspeed" in sys.modules:
        from deepspeed import DeepSpeedEngine

        from ditscale.training.zero import zero

        for engine in [thing for thing in gc.get_objects() if type(thing) is DeepSpeedEngine]:
            zero.destroy(engine)


@pytest.fixture
def make_run(tmp_path, digits_values):
    """A run directory for ``digits_values`` with changes: ``make_run("name", {"train.precision": "fp32"})``."""
    from ditscale.dotted import set_key

    def make(name="run", changes={}):
        import copy
        values = copy.deepcopy(digits_values)
        values["resources"] = {"loader": "mmap", "log_every_images": 64, "deepspeed": "ds_configs/zero1.json"}
        for key, value in changes.items():
            set_key(values, key, value)
        config = resolve(values, "test")
        run = RunDir(tmp_path / name)
        run.create({"run_id": name, "config": config.model_dump(mode="json")})
        return config, run
    return make


@pytest.fixture
def start_ranks():
    """``start_ranks(2, command, said)``: that many processes of this machine in a world of their own; none outlives the test.

    ``said(rank)``: where a rank's words go, a file or a pipe. ``environment``: variables besides those that make the world."""
    from ditscale.training.ports import free_port

    started = []

    def start(size, command, said, environment={}):
        shared = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                  "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
        ranks = [subprocess.Popen(command, stdout=said(rank), stderr=subprocess.STDOUT, text=True,
                                  env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)]
        started.extend(ranks)
        return ranks
    yield start
    for rank in started:
        rank.kill()
        rank.wait()


@pytest.fixture
def start_workers(start_ranks):
    """``start_workers(run, 2)``: workers of a run without a launcher, the words of each in ``rank-0.txt`` and so on."""
    def start(run, size):
        return start_ranks(size, [sys.executable, "-m", "ditscale.studies.launch.worker", str(run.path)],
                           lambda rank: open(run.path / f"rank-{rank}.txt", "w"))
    return start


@pytest.fixture
def on_ranks(start_ranks):
    """Train runs, one after another, on that many processes of this machine: ``on_ranks(2, run, other_run)``; see ranks.py.

    ``stop_after``: steps after which each run is stopped, and goes on in the same processes; with ``stay_stopped`` it does not.
    ``environment``: variables of the processes, besides those that make a world of them."""
    def train(size, *runs, poison=None, disagree=False, stop_after=None, stay_stopped=None, environment={}):
        wanted = {"POISON": poison, "DISAGREE": disagree and "1", "STOP_AFTER": stop_after or stay_stopped, "STAY_STOPPED": stay_stopped and "1"}
        command = [sys.executable, str(Path(__file__).with_name("ranks.py")), *(str(run.path) for run in runs)]
        ranks = start_ranks(size, command, lambda rank: subprocess.PIPE,
                            {name: str(value) for name, value in wanted.items() if value} | environment)
        for rank in ranks:
            said, _ = rank.communicate(timeout=300 + 60 * size)
            assert rank.returncode == 0, said
    return train


@pytest.fixture
def in_repository(repository, monkeypatch):
    """The strategies of ds_configs/ are found."""
    monkeypatch.chdir(repository)


@pytest.fixture
def poison(monkeypatch):
    """``poison(6, 7)``: models built in the loop get one NaN in a gradient in these backward passes, counted over all starts."""
    from ditscale.objectives.from_config import build_model
    from ditscale.training import loop

    def poison_passes(*passes):
        calls = iter(range(1, 10**6))

        def spoil(gradient):
            if next(calls) in passes:
                gradient = gradient.clone()
                gradient.view(-1)[7] = math.nan
            return gradient

        def build(config):
            model = build_model(config)
            model.get_parameter("blocks.0.attn.qkv.weight").register_hook(spoil)
            return model
        monkeypatch.setattr(loop, "build_model", build)
    return poison_passes
