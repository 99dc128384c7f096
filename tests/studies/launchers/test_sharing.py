"""Several runs on one GPU: places, threads, the memory that each is given, and where it is refused."""

import copy

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.hardware import Machine
from ditscale.cost.memory import GIB
from ditscale.dotted import set_key
from ditscale.errors import UserError
from ditscale.ranks import World
from ditscale.rundir import RunDir
from ditscale.studies.launchers.local import ThisMachine, slots
from ditscale.studies.plan.plan import plan_rows
from ditscale.studies.plan.probe import shape_of
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training import fit

KEY = "resources.runs_per_accelerator"
TWO_GPUS = Machine("gpu", "H100", 2, 1e15, 80 * GIB)


@pytest.fixture
def planned(values, tmp_path):
    """``planned(3, **changes)``: a run that allows as many on a GPU."""
    def make(shared, **changes):
        mine = copy.deepcopy(values)
        for key, value in {KEY: shared, **changes}.items():
            set_key(mine, key.replace("__", "."), value)
        return PlannedRun(resolve(mine, "test"), RunDir(tmp_path / "run"))
    return make


@pytest.fixture
def said(values, tmp_path, repository, monkeypatch):
    """What a command says of a study with so many."""
    monkeypatch.chdir(repository)

    def call(command, shared, *arguments):
        set_key(values, KEY, shared)
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
                                                            "runs_dir": str(tmp_path / "runs")}))
        return CliRunner().invoke(main, [command, str(tmp_path / "spec.yaml"), *arguments])
    return call


def test_places_and_threads(planned, monkeypatch):
    """First one on each GPU, then the second on each; the cores are shared out among all."""
    monkeypatch.setattr("os.cpu_count", lambda: 24)
    where = ThisMachine(TWO_GPUS, [planned(3), planned(4)])
    assert where.places == [(0,), (1,)] * 3 and slots(TWO_GPUS, [planned(3), planned(4)]) == 6
    command = where.command(planned(3), (1,), False)
    assert command.environment["OMP_NUM_THREADS"] == "4" and "localhost:1" in command.words
    alone = ThisMachine(TWO_GPUS, [planned(1), planned(4)])
    assert alone.places == [(0,), (1,)] and alone.command(planned(1), (0,), False).environment["OMP_NUM_THREADS"] == "12"
    wide = ThisMachine(TWO_GPUS, [planned(2, resources__accelerators_per_run=2)])
    assert wide.places == [(0, 1)] * 2


def test_what_does_not_fit_is_refused_with_what_would(planned):
    """By the memory model: 85 % of the device, shared out equally."""
    large = {"model__name": "DiT-XL/2", "data__resolution": 32, "train__global_batch": 64, "train__images": 640}
    run = planned(1, **large)
    row = plan_rows([run], TWO_GPUS)[0]
    most = int(fit.USABLE * TWO_GPUS.memory_bytes) // row.memory_bytes
    assert most >= 1 and ThisMachine(TWO_GPUS, [planned(most, **large)]).places == [(0,), (1,)] * most
    with pytest.raises(UserError, match=f"runs_per_accelerator is {most + 1}, but .* GiB by the memory model, and .* {most} would fit"):
        slots(TWO_GPUS, [planned(most + 1, **large)])
    assert slots(Machine("gpu", "unknown", 1, 1e15), [planned(most + 1, **large)]) == most + 1


def test_a_plan_counts_them_as_no_faster_than_one_after_the_other(planned):
    one, three = (plan_rows([planned(shared)], TWO_GPUS)[0] for shared in (1, 3))
    assert one.run_id == three.run_id and planned(3).config.science_hash() == planned(1).config.science_hash()
    assert three.accelerator_hours == pytest.approx(one.accelerator_hours, rel=0.7) and three.seconds_left > one.seconds_left
    assert three.memory_bytes == one.memory_bytes and (one.runs_per_accelerator, three.runs_per_accelerator) == (1, 3)
    assert shape_of(planned(1).config) != shape_of(planned(3).config)


def test_the_automatic_micro_batch_takes_its_share(planned, monkeypatch):
    monkeypatch.setattr(fit, "_memory_bytes", lambda world: 80 * GIB)
    given = []
    monkeypatch.setattr(fit, "largest_that_fits", lambda config, usable: given.append(usable) or 1)
    for shared in (1, 4):
        fit.fit_micro_batch(planned(shared, resources__micro_batch="auto").config, World(0, 1, "cpu", None))
    assert given == [int(fit.USABLE * 80 * GIB), int(fit.USABLE * 20 * GIB)]


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_refused_where_there_is_no_gpu(said, command, tmp_path, monkeypatch):
    monkeypatch.setattr("ditscale.cost.hardware._gpu_names", lambda: [])
    monkeypatch.setattr("ditscale.studies.launch.start.check_inputs", lambda runs: None)
    done = said(command, 2)
    assert done.exit_code == 2 and "no GPU here" in done.output and f"{KEY}=1 works here" in done.output and not (tmp_path / "runs").exists()
    assert said("plan", 2, "--on", "H100:2").exit_code == 0
    refused = said("plan", 1000, "--on", "H100:2", "model.name=DiT-B/4")
    assert refused.exit_code == 2 and "would fit" in refused.output.splitlines()[-1]


def test_refused_where_a_job_has_its_accelerators_alone(said, tmp_path, monkeypatch):
    monkeypatch.setattr("ditscale.studies.launch.start.check_inputs", lambda runs: None)
    (tmp_path / "site.yaml").write_text("{name: cluster, launcher: slurm}")
    done = said("launch", 2, "--site", str(tmp_path / "site.yaml"), "--launcher", "print")
    assert done.exit_code == 2 and done.output.count("\n") == 1 and "launcher slurm gives a run its accelerators alone" in done.output
