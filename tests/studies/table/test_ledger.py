"""The ledger: what run directories hold comes out as columns, and what an old run did not write down never fails."""

import json

import numpy as np
import pytest
import yaml

from ditscale.cost.memory import GIB
from ditscale.figures.kit import study_table
from ditscale.studies.launch.launch import run_record
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.studies.table import facts, ledger

PASSPORT = {"samples": 64, "guidance_scale": 1.5, "nfe": 5, "seed": 0}
LINE = {"metric": "fd_digits_cnn", "score": 9.0, "floor": 1.0, "passport": PASSPORT, "passport_id": "p"}


@pytest.fixture
def run(tmp_path, values):
    """A run directory of masked training, queued."""
    values["objective"] = {"name": "masked", "mask_ratio": 0.25}
    values["model"] = {**values["model"], "block": "adaln"}
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
            "parameters": {"model.name": {"values": ["DiT-femto/2"]}}, "runs_dir": str(tmp_path / "runs")}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    spec = load_spec(path, ())
    [planned] = expand(spec, str(path))
    planned.run.create(run_record(spec, planned))
    return planned.run


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_tells_how_it_was_trained(run):
    run.update_record(environment={"device": "NVIDIA H100"}, micro_batch=16, zero_stage=2)
    rates = [10.0, 1000.0, 200.0, 100.0, 150.0, 120.0]
    write(run.metrics, [{"images_seen": 32 * i, "seconds": 1.0, "images_per_second": rate, "mfu": rate / 1000, "peak_memory_gib": 2.0 - i / 8}
                        for i, rate in enumerate(rates)])
    [row] = ledger.collect_runs(run.path.parent).to_dict("records")
    assert (row["block"], row["mask_ratio"], row["device"], row["micro_batch"], row["zero_stage"]) == ("adaln", 0.25, "NVIDIA H100", 16, 2)
    config = run.read_record()["config"]
    assert (row["lr"], row["global_batch"], row["precision"]) == tuple(config["train"][k] for k in ("lr", "global_batch", "precision"))
    assert row["accelerators"] == config["resources"]["accelerators_per_run"] and row["data"] == config["data"]["name"]
    assert row["images_per_second"] == 120.0 and row["mfu"] == 0.12                    # medians of 100, 150, 120: the last half
    assert row["peak_memory_bytes"] == 2.0 * GIB


def test_the_critical_batch_is_the_last_one_logged(run):
    write(run.metrics, [{"images_seen": 64 * i, "seconds": 1.0, **({"batch/critical": 10.0 * i} if i > 1 else {})} for i in range(1, 6)])
    write(run.evals, [{**LINE, "images_seen": images} for images in (64, 192, 210, 640)])
    table = ledger.collect(run.path.parent)
    assert table["critical_batch"].fillna(0).tolist() == [0, 30, 30, 50] and table["critical_batch_adam"].isna().all()


def test_tokens_per_parameter_are_those_of_the_plain_model(run):
    write(run.evals, [{**LINE, "images_seen": images} for images in (320, 640)])
    from ditscale.config import resolve
    from ditscale.models.macs import plain_card
    from ditscale.objectives.variant import backbone_of

    card = plain_card(backbone_of(resolve(run.read_record()["config"], "test")))
    table = ledger.collect(run.path.parent)
    assert table["tokens_per_parameter"].tolist() == pytest.approx([320 * card.tokens / card.parameters, 640 * card.tokens / card.parameters])
    assert table["parameters"].iloc[0] > card.parameters                       # the masked variant's decoder does not count


def test_every_metric_of_an_evaluation_is_in_its_one_row(run):
    write(run.evals, [
        {**LINE, "images_seen": 320, "values": {"sfid": 7.0, "precision": 0.5}, "error": 0.25, "seconds": 3.0, "sampling_flops": 10**12},
        {**LINE, "images_seen": 640, "values": {"sfid": 6.0, "is": 4.0}}])
    table = ledger.collect(run.path.parent)
    assert len(table) == 2 and list(table)[:len(ledger.COLUMNS)] == list(ledger.COLUMNS)
    assert set(table) - set(ledger.COLUMNS) == {"values.sfid", "values.precision", "values.is"}
    first, second = table.to_dict("records")
    assert (first["values.sfid"], first["values.precision"], first["score_error"]) == (7.0, 0.5, 0.25)
    assert (first["evaluation_seconds"], first["evaluation_flops"]) == (3.0, 10**12)
    assert second["values.is"] == 4.0 and np.isnan(second["values.precision"]) and np.isnan(second["evaluation_seconds"])


def test_repetitions_share_one_row_with_the_mean_of_every_metric(run):
    write(run.evals, [{**LINE, "images_seen": 320, "score": 8.0 + seed, "values": {"sfid": 6.0 + 2 * seed},
                       "passport": {**PASSPORT, "seed": seed}} for seed in (0, 1)])
    [row] = study_table.read(run.path.parent).to_dict("records")
    assert (row["score"], row["values.sfid"], row["sample_seeds"]) == (8.5, 7.0, 2)


def test_an_old_run_has_gaps_and_no_error(run):
    record = run.read_record()
    for name in ("environment", "micro_batch", "zero_stage"):
        record.pop(name, None)
    del record["cost"]["inference_parameters"]
    run.record.write_text(json.dumps(record))
    write(run.evals, [{**LINE, "images_seen": 320}])
    [row] = ledger.collect(run.path.parent).to_dict("records")
    for name in ("micro_batch", "zero_stage", "images_per_second", "mfu", "peak_memory_bytes", "inference_parameters", "score_error",
                 "evaluation_seconds", "evaluation_flops"):
        assert np.isnan(row[name]), name
    assert row["device"] == "" and np.isnan(row["train_seconds"])


def test_a_run_without_evaluations_is_a_row_of_its_own(run):
    assert ledger.collect(run.path.parent).empty
    assert list(ledger.collect_runs(run.path.parent)) == list(facts.COLUMNS)


def test_unique_images_are_those_of_the_kept_manifest(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                                                # the checkout may have the demo's data
    write(run.evals, [{**LINE, "images_seen": 320, "forwards_per_image": 5}])
    [row] = ledger.collect(run.path.parent).to_dict("records")
    assert np.isnan(row["unique_images"]) and row["forwards_per_image"] == 5
    run.manifest.write_text(json.dumps({"samples": 1437}))
    assert ledger.collect(run.path.parent)["unique_images"].tolist() == [1437]
