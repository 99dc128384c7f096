"""Plans: what fits where, what it costs, limits; and that large studies are planned and shown at once."""

import csv
import json
import time
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cost.hardware import Machine, named_machine
from ditscale.cost.runs import run_memory_card, sampling_flops, validation_flops
from ditscale.data.manifest import unique_images
from ditscale.errors import UserError
from ditscale.rundir import RunDir, last_line
from ditscale.studies.plan.epochs import epoch_lines
from ditscale.studies.plan.plan import assumption_line, plan_rows
from ditscale.studies.plan.show import as_speed, as_time, short_count
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.training.schedule import validated_images


@pytest.fixture
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


def rows_of(name, device, *overrides):
    spec = load_spec(f"sweeps/{name}.yaml", overrides)
    return plan_rows(expand(spec, name), named_machine(device))


def plan(*arguments, code=0):
    done = CliRunner().invoke(main, ["plan", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def test_a_start_on_a_cpu_is_a_fork_for_one_rank_alone(in_repository):
    """It has what takes long, imports and DeepSpeed's launcher, behind it; two ranks have not."""
    cpu = Machine("cpu", "test", 4, 1e12, 2**33)
    spec = load_spec("sweeps/digits_demo.yaml", ("train.images=32", "train.checkpoint_every_images=32", "evaluation=null"))
    [one, *_] = plan_rows(expand(spec, "digits_demo"), cpu)
    assert one.seconds_left < 3 and "30 s to start (2 s for runs of one rank)" in assumption_line(cpu, 4)
    spec = load_spec("sweeps/digits_demo.yaml", ("train.images=32", "train.checkpoint_every_images=32", "evaluation=null", "resources.accelerators_per_run=2"))
    assert plan_rows(expand(spec, "digits_demo"), cpu)[0].seconds_left > 30
    assert "40 s to start;" in assumption_line(named_machine("H100:8"), 8)


def test_the_smallest_stage_that_fits(in_repository):
    [row] = rows_of("imagenet256_models", "H100:8", "model.name=DiT-XL/2")
    assert (row.zero_stage, row.micro_batch, row.ranks) == (1, 32, 8) and row.memory_bytes < 0.85 * 80 * 2**30
    spec = load_spec("sweeps/imagenet256_models.yaml", ("model.name=DiT-XL/2",))
    [planned] = expand(spec, "x")
    assert row.memory_bytes == run_memory_card(planned.config, stage=1, offload=False, micro_batch=32).accelerator
    assert row.evaluation_flops == 8 * 50000 * sampling_flops(planned.config)
    assert row.evaluation_flops == pytest.approx(8 * 2.97e18, rel=0.01)          # scaling.md: an FID-50K of XL/2
    [alone] = rows_of("imagenet256_models", "L40S", "model.name=DiT-XL/2", "resources.accelerators_per_run=1",
                      "resources.micro_batch=256")
    assert alone.zero_stage is None and alone.memory_bytes is None             # 256 images at once do not fit 48 GB


def test_time_and_money(in_repository, tmp_path):
    said = plan("sweeps/imagenet256_models.yaml", "model.name=DiT-XL/2", "--on", "H100:8", "--price", "2.5", "--csv",
                tmp_path / "plan.csv", "--json", tmp_path / "plan.json")
    [row] = json.loads((tmp_path / "plan.json").read_text())
    steps = row["images"] / 256
    training = 8 * steps * (row["step_compute_seconds"] + 0.015 + row["step_exposed_seconds"])
    seconds = row["evaluation_flops"] / (0.3 * 989e12) + training
    assert (row["step_limit"], row["step_bound_seconds"]) == ("compute", pytest.approx(0.31 * row["step_compute_seconds"]))
    assert row["accelerator_hours"] == pytest.approx(seconds / 3600, rel=0.01)   # and the start
    assert f"{2.5 * row['accelerator_hours']:,.2f} at 2.5 per hour" in said and "Z1, 32: " in said
    [line] = csv.DictReader((tmp_path / "plan.csv").open())
    assert int(line["train_flops"]) == row["train_flops"] and line["model"] == "DiT-XL/2"


def test_what_is_wrong_is_named(in_repository, tmp_path):
    assert "did you mean 'H100'" in plan("sweeps/digits_demo.yaml", "--on", "H10", code=2)
    assert "'x' is not a number of devices" in plan("sweeps/digits_demo.yaml", "--on", "H100:x", code=2)
    (tmp_path / "no").write_text("a file")
    assert "cannot be written" in plan("sweeps/digits_demo.yaml", "--csv", tmp_path / "no" / "plan.csv", code=2)


def test_limits_refuse_a_launch(in_repository, repository, tmp_path, digits_values):
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": digits_values,
            "parameters": {"seed": {"values": [0, 1, 2]}}, "limits": {"runs": 2, "train_flops": 1e18},
            "runs_dir": str(tmp_path / "runs")}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert "exceeds the study's limits: runs 3 of 2; launch will refuse it" in plan(path)
    done = CliRunner().invoke(main, ["launch", str(path)])
    assert done.exit_code == 2 and "runs 3 of 2" in done.output and not (tmp_path / "runs").exists()
    assert "limits" not in plan(path, "seed=[0,1]")
    done = CliRunner().invoke(main, ["launch", str(path), "--launcher", "print", "--over-limits"])
    assert done.exit_code == 0 and "3 to start" in done.output


def test_ten_thousand_runs_are_planned_at_once(in_repository, tmp_path):
    """5 s is the promise; of processor time, which a loaded machine does not lengthen much, three times that is allowed."""
    spec = yaml.safe_load(open("sweeps/imagenet256_models.yaml"))
    spec |= {"parameters": {**spec["parameters"], "seed": {"values": list(range(834))}}, "runs_dir": str(tmp_path)}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(spec))
    started = time.process_time()
    runs = expand(load_spec(tmp_path / "many.yaml"), "many")
    assert len(plan_rows(runs, named_machine("H100:8"))) == 10008 and time.process_time() - started < 15


def test_the_last_line_of_a_long_file(tmp_path):
    path = RunDir(tmp_path).metrics
    assert last_line(path) is None
    path.write_text("".join(json.dumps({"n": n, "filler": "x" * 100}) + "\n" for n in range(5000)) + '{"n": 50')
    assert last_line(path)["n"] == 4999
    path.write_text("{")
    assert last_line(path) is None


def test_a_name_that_is_no_accelerator():
    with pytest.raises(UserError, match="There are H200"):
        named_machine("abacus")


@pytest.mark.parametrize("strategy, words", [
    ({"zero_optimization": {"stage": 1, "no_such_key": 1}}, "unknown key 'zero_optimization.no_such_key'"),
    ({"zero_optimization": {"stage": 2}, "train_batch_size": 7}, "has train_batch_size = 7 but the run config makes it 64"),
    (None, "does not exist")])
def test_plan_launch_and_train_refuse_a_bad_strategy_in_the_same_line(values, tmp_path, strategy, words):
    """Before anything starts, and on one accelerator too: the data need not be there."""
    if strategy:
        (tmp_path / "strategy.json").write_text(json.dumps(strategy))
    config = {**values, "resources": {"deepspeed": str(tmp_path / "strategy.json")},
              "data": {**values["data"], "path": str(tmp_path / "nothing.beton")}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": config,
                                                       "parameters": {"seed": {"value": 0}}, "runs_dir": str(tmp_path / "runs")}))
    said = {CliRunner().invoke(main, [command, str(tmp_path / "spec.yaml")]).output for command in ("plan", "launch", "train")}
    assert len(said) == 1 and words in min(said) and min(said).startswith("error: ")
    assert min(said).count("\n") == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["imagenet256_isoflop", "imagenet256_variants"])
def test_a_validation_loss_is_in_the_plan_and_costs_little(in_repository, name):
    """4,096 draws at each checkpoint are below 1 % of training."""
    validation = "evaluation.validation.path=heldout.beton"
    for row, before, planned in zip(rows_of(name, "H100:8", validation), rows_of(name, "H100:8"),
                                    expand(load_spec(f"sweeps/{name}.yaml", (validation,)), name)):
        added = row.evaluation_flops - before.evaluation_flops
        assert added == validation_flops(planned.config) * 4096 * len(validated_images(planned.config))
        assert 0 < added < 0.01 * row.train_flops
        assert row.run_id == before.run_id and row.seconds_left > before.seconds_left


def test_seeds_share_a_row_and_tables_fit_120_columns(in_repository):
    said = plan("sweeps/imagenet256_variants.yaml", "--on", "H100:8", "--price", "2.5", "--scaling")
    assert max(map(len, said.splitlines())) <= 120
    assert "DiT-XL-2-baseline-edm x 3" in said and "-s1-" not in said and "all queued" in said
    [total] = [line for line in said.splitlines() if line.startswith("Total: ")]
    assert "accelerator-hours, " in total and "at 2.5 per hour" in total and total.split("; ")[2].endswith(" days ~")
    wide = plan("sweeps/imagenet256_variants.yaml", "--on", "H100:8", "--wide")
    assert wide.count("│ DiT-XL-2-baseline-edm-s") == 3 and "102,400,000" in wide


def test_the_products_of_an_optimizer_are_stated(in_repository):
    arguments = "sweeps/imagenet256_models.yaml", "model.name=DiT-XL/2", "--on", "H100:8"
    muon = plan(*arguments, "train.optimizer.name=muon")
    assert "include the optimizer's matrix products in 1 run: 7.0% on top of the model's" in " ".join(muon.split())
    assert "matrix products" not in plan(*arguments)
    [row], [other] = (rows_of("imagenet256_models", "H100:8", "model.name=DiT-XL/2", *more) for more in (["train.optimizer.name=muon"], []))
    assert row.train_flops - row.optimizer_flops == other.train_flops and row.optimizer_flops > other.optimizer_flops == 0


def test_of_a_cpu_an_imagenet_study_says_so_first(in_repository, monkeypatch):
    gpu = named_machine("H100:2")
    monkeypatch.setattr("ditscale.cost.hardware.this_machine", lambda: replace(gpu, name="a CPU", kind="cpu", peak_flops=5e10))
    assert plan("sweeps/imagenet256_models.yaml").startswith("No GPU here: this is a forecast for this CPU")
    assert not plan("sweeps/digits_demo.yaml").startswith("No GPU here")


@pytest.mark.parametrize("seconds, words", [(65, "1:05"), (3725, "1:02:05"), (172799, "47:59:59"), (2e5, "2.3 days"), (110769 * 1000, "3.5 years"),
                                            (1e7, "116 days")])
def test_long_times_are_days_and_years(seconds, words):
    assert as_time(seconds) == words


@pytest.mark.parametrize("speed, words", [(0, "0"), (0.284, "0.28"), (3.14, "3.1"), (9.96, "10"), (1234.4, "1,234")])
def test_slow_speeds_keep_a_digit(speed, words):
    assert as_speed(speed) == words


def test_recipes_of_one_name_are_told_apart(in_repository, tmp_path):
    spec = yaml.safe_load(open("sweeps/imagenet256_models.yaml"))
    spec["parameters"] |= {"seed": {"values": [0, 1]}, "train.lr": {"values": [1e-4, 2e-4]}}
    (tmp_path / "rates.yaml").write_text(yaml.safe_dump(spec))
    said = plan(tmp_path / "rates.yaml", "model.name=DiT-XL/2", "--on", "H100:8")
    named = [line.split(" x 2")[0].strip() for line in said.splitlines() if " x 2 " in line]
    assert len(set(named)) == 2 and all(name.startswith("DiT-XL-2-baseline-ddpm (") for name in named)
    assert all(said.count(name) == 3 for name in named)                        # and of bounds, and of steps on several ranks


def test_a_long_name_takes_two_lines_and_no_number_is_cut(in_repository):
    said = plan("sweeps/cifar10_small_sensitivity.yaml")
    rows = [line.split() for line in said.splitlines() if "DiT-4x64-4-discriminative-flow " in line]
    assert len(rows) == 10 and "(temperature-0.02) x 3" in said
    assert all({"3.50e+12", "2.37e+12"} & set(row) and "Z1," in row for row in rows) and "\N{HORIZONTAL ELLIPSIS}" not in said


@pytest.mark.parametrize("count, words", [(999936, "1 M"), (999, "999"), (32858896, "32.9 M"), (675129632, "675 M"), (89300, "89.3 k")])
def test_short_counts(count, words):
    assert short_count(count) == words


def test_epochs_are_images_by_unique_images(in_repository, tmp_path):
    """Of the manifest next to the data; past what laws were checked for, the plan says so with the source."""
    spec = load_spec("sweeps/digits_demo.yaml", (f"data.path={tmp_path}/train.beton",))
    runs, cpu = expand(spec, "digits_demo"), Machine("cpu", "test", 4, 1e12, 2**33)
    unknown = plan_rows(runs, cpu)
    assert unknown[0].epochs is None and epoch_lines(unknown) == []
    (tmp_path / "train.json").write_text(json.dumps({"samples": 1437}))
    rows = plan_rows(runs, cpu)
    assert rows[0].epochs == runs[0].config.train.images / 1437 and rows[0].unique_images == 1437
    [line] = epoch_lines(rows)
    assert f"{len(rows)} runs with 15" in line and "up to 4 epochs, on language models (2305.16264)" in line
    assert epoch_lines([replace(row, unique_images=row.images) for row in rows]) == []             # one epoch
    assert "not known for 1 run" in epoch_lines([replace(rows[0], unique_images=None), *rows[1:]])[1]
    shown = plan("sweeps/digits_demo.yaml", f"data.path={tmp_path}/train.beton", "--csv", tmp_path / "plan.csv")
    assert "(15 epochs)" in shown and "Epochs (images / unique images" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 120                            # sentences wrap, as the table does
    with open(tmp_path / "plan.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["epochs"]) == pytest.approx(21504 / 1437)
    (tmp_path / "train.json").write_text("{")
    assert unique_images(tmp_path / "train.json") is None
