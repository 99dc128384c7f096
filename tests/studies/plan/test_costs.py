"""What a study says that its runs cost: in the plan, in their records and in the ledger."""

import json

import pytest
import yaml

from ditscale.cost.hardware import Machine
from ditscale.cost.runs import run_card, training_flops
from ditscale.studies.launch.launch import run_record
from ditscale.studies.plan.plan import plan_rows
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.studies.table.ledger import collect

MACHINE = Machine("cpu", "test", 1, 1e11)


@pytest.fixture
def planned(tmp_path, values):
    """One run whose mask ratio falls, and its spec."""
    values["objective"] = {"name": "masked", "mask_schedule": "cosine", "unmasking_images": 128}
    spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": values,
            "parameters": {"model.name": {"values": ["DiT-femto/2"]}}, "runs_dir": str(tmp_path / "runs")}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    spec = load_spec(path, ())
    [planned] = expand(spec, str(path))
    return spec, planned


def test_record_and_plan(planned):
    spec, planned = planned
    card, cost = run_card(planned.config), json.loads(json.dumps(run_record(spec, planned)))["cost"]
    assert cost["macs"] == sum(cost["macs_by_part"].values()) == card.macs
    assert cost["train_flops_per_image"] == 6 * sum(cost["trained_macs_by_part"].values())
    assert cost["parameters"] == cost["inference_parameters"] + 32             # the mask token
    [row] = plan_rows([planned], MACHINE)
    assert row.macs == card.macs and row.train_flops == training_flops(planned.config, 640)


def test_the_ledger_follows_the_schedule(planned):
    spec, planned = planned
    planned.run.create(run_record(spec, planned))
    passport = {"samples": 64, "guidance_scale": 1.0, "nfe": 5}
    planned.run.evals.write_text("".join(json.dumps({
        "images_seen": seen, "metric": "fd_digits_cnn", "score": 9.0, "floor": 1.0, "passport": passport, "passport_id": "p"}) + "\n"
        for seen in (320, 640)))
    table = collect(planned.run.path.parent)
    assert list(table.train_flops) == [training_flops(planned.config, 320), training_flops(planned.config, 640)]
    assert (table.train_flops > table.train_flops_per_image * table.images_seen).all()  # at the nominal ratio it would be less
    assert set(table.macs) == {run_card(planned.config).macs}
