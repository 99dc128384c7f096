"""What `status` and the report say about a job that leaves the track of its siblings, on run directories with known losses."""

import copy
import json

import numpy as np
import pytest

from ditscale.config import resolve
from ditscale.cost.runs import run_card
from ditscale.report import sources
from ditscale.rundir import RunDir
from ditscale.studies.alarms import Sibling, warnings_of
from ditscale.studies.launch.status import standings
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.studies.table.ledger import collect

IMAGES = 16384
RUNGS, TARGET = ("DiT-atto/2", "DiT-femto/2", "DiT-pico/2", "DiT-nano/2"), "DiT-tiny/2"
PASSPORT = {"metric": "loss", "samples": 512, "seed": 0}


@pytest.fixture
def add(tmp_path, values):
    """``add("DiT-nano/2", 0)``: a run of 20 validation losses, up to ``share`` of its training, and its log."""
    def make(model, seed, *, share=1.0, state=None, off=1.0, passport=PASSPORT, changes={}, line=lambda images: {}):
        own = copy.deepcopy(values) | {"seed": seed, "model": {"name": model}} | changes
        own["train"] |= {"images": IMAGES}
        config = resolve(own, "test")
        card, rng = run_card(config), np.random.default_rng([seed, *model.encode()])
        run = RunDir(tmp_path / "study" / f"{model.replace('/', '-')}-s{seed}-{config.science_hash()}")
        run.create({"config": json.loads(config.model_dump_json()), "cost": {
            "parameters": card.parameters, "tokens": card.tokens, "macs": card.macs, "train_flops_per_image": card.train_flops_per_image}})
        seen = [images for images in (IMAGES * np.arange(1, 21) // 20).tolist() if images <= share * IMAGES]
        luck = 0.002 * rng.standard_normal()
        losses = [0.35 + 0.5 * (2 * card.macs / 1e6) ** -0.25 + 0.4 * (images / 1000) ** -0.45 for images in seen]
        run.evals.write_text("".join(json.dumps({
            "images_seen": images, "metric": "loss", "passport": passport, "floor": None,
            "score": loss * np.exp(luck + 0.0005 * rng.standard_normal()) * (off if images > 0.5 * IMAGES else 1)}) + "\n"
            for images, loss in zip(seen, losses)))
        logged = [images for images in range(128, IMAGES + 1, 128) if images <= share * IMAGES]
        run.metrics.write_text("".join(json.dumps({"images_seen": images, "seconds": 1.0, "images_per_second": 100.0, **line(images)}) + "\n"
                                       for images in logged))
        run.set_status(state or ("done" if share == 1 else "running"), images_seen=int(share * IMAGES))
        return Sibling(run, config)
    return make


@pytest.fixture
def rungs(add):
    return [add(model, seed) for model in RUNGS for seed in range(2)]


def test_a_job_that_leaves_the_band_is_named_with_how_far_and_from_what(add, rungs):
    job = add(TARGET, 0, share=0.7, off=1.15)
    [(run_id, sentence)] = warnings_of([*rungs, job]).items()
    assert run_id == job.run.run_id
    assert sentence.startswith("off track since 55% of training: at 70% the validation loss is 1") and "sigma; spread over seeds of one size" in sentence
    assert "above the track of 8 finished runs of DiT-atto/2, DiT-femto/2, DiT-pico/2, DiT-nano/2" in sentence


def test_a_job_on_track_or_done_or_without_enough_siblings_is_not(add, rungs):
    on_track, off = add(TARGET, 0, share=0.7), add(TARGET, 1, share=0.7, off=1.15)
    assert warnings_of([*rungs, on_track]) == {}
    assert warnings_of([*rungs[:4], off]) == {}                                # two sizes determine no law
    assert warnings_of([*rungs, add(TARGET, 2, off=1.15)]) == {}
    assert warnings_of([*rungs, add(TARGET, 3, share=0.7, off=1.15, passport={**PASSPORT, "samples": 64})]) == {}
    assert warnings_of([*rungs, add(TARGET, 4, share=0.7, off=1.15, changes={"objective": {"name": "masked"}})]) == {}
    assert warnings_of([*rungs, add(TARGET, 6, share=0.7, off=1.15, changes={"model": {"name": TARGET, "qk_norm": True}})]) == {}
    assert warnings_of([*rungs, add(TARGET, 5, share=0.7, off=1.15, state="failed")])


def test_status_and_the_report_show_it(add, rungs, tmp_path, monkeypatch):
    job = add(TARGET, 0, share=0.7, off=1.15)
    monkeypatch.setattr("ditscale.studies.launch.status.live_jobs", lambda spec: {})
    planned = [PlannedRun.__new__(PlannedRun) for _ in (*rungs, job)]
    for one, sibling in zip(planned, (*rungs, job)):
        vars(one).update(run_id=sibling.run.run_id, run=sibling.run, config=sibling.config)
    found = standings(Spec.__new__(Spec), planned)
    assert [one.why.startswith("off track since 55%") for one in found] == [False] * 8 + [True]
    [warning] = sources.read(tmp_path / "study", collect(tmp_path / "study")).warnings
    assert warning.startswith(f"{job.run.run_id}: off track since 55%")


def calm(images):
    return {"grad_norm": 2.0 + 0.1 * (images % 3), "update/attention": 0.01, "update/mlp": 0.02}


def test_a_rising_gradient_norm_in_the_first_part_is_said(add):
    siblings = [add(RUNGS[0], seed, line=calm) for seed in range(3)]
    rising = add(TARGET, 0, share=0.1, line=lambda images: calm(images) | {"grad_norm": 3.0 + images / 100})
    sentence = warnings_of([*siblings, rising])[rising.run.run_id]
    assert sentence.startswith("the learning rate may be too high: the gradient norm has risen from ") and "highest of 3 siblings has 2.1 " in sentence
    assert warnings_of([*siblings[:2], rising]) == {}                          # two siblings are too few
    assert warnings_of([*siblings, add(TARGET, 1, share=0.1, line=calm)]) == {}
    steady = add(TARGET, 2, share=0.1, line=lambda images: calm(images) | {"grad_norm": 20.0})
    assert warnings_of([*siblings, steady]) == {}                              # large, but not rising: models differ
    later = add(TARGET, 3, share=0.3, line=lambda images: calm(images) | {"grad_norm": 3.0 + images / 100})
    assert warnings_of([*siblings, later]) == {}                               # the off-track alarm's part of training


def test_updates_far_larger_than_the_siblings_are_said(add):
    siblings = [add(RUNGS[0], seed, line=calm) for seed in range(3)]
    moving = add(TARGET, 0, share=0.1, line=lambda images: calm(images) | {"update/mlp": 0.08})
    assert "moves the mlp weights by 0.08 of their RMS, 4.0 times the highest of 3 siblings" in warnings_of([*siblings, moving])[moving.run.run_id]
    moving.run.metrics.write_text(moving.run.metrics.read_text() + '{damaged\n[]\n{"images_seen": 1600, "update/mlp": "x"}\n')
    assert moving.run.run_id in warnings_of([*siblings, moving])
