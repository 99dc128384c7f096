"""Another model as the guide: the formula, one that cannot fit refused, its cost, and the passport that names it."""

import json

import pytest
import torch
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.runs import run_card
from ditscale.diffusion.guidance import Guided
from ditscale.errors import UserError
from ditscale.evaluation.evaluate import Evaluator
from ditscale.evaluation.sampling.guide import find_guide
from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.ranks import World
from ditscale.rundir import RunDir, read_lines
from ditscale.studies.spec.inputs import check_inputs
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.checkpoint.weights import run_config


@pytest.fixture
def runs(hand_run, digits_values):
    """A model, and a smaller one of the same data, at two checkpoints each."""
    digits_values["evaluation"].update(samples=64, sampling_steps=2, batch=32)
    changes = {"evaluation": digits_values["evaluation"], "data": digits_values["data"]}
    return [hand_run({**changes, "model.name": name}, checkpoints=(320, 640), name=name.split("-")[1].replace("/", "-"))
            for name in ("DiT-femto/4", "DiT-atto/4")]


def guided_by(run, guide, **evaluation):
    record = run.read_record()["config"]
    return resolve({**record, "evaluation": {**record["evaluation"], "guide": str(guide), "guidance_scale": 2.0, **evaluation}}, "test")


def loaded(run, config) -> ImageMaker:
    maker = ImageMaker(config, config.evaluation, "cpu")
    maker.load(choose_weights(run, None, "ema")[0])
    return maker


def test_the_output_is_the_guide_plus_the_scale_times_the_difference(runs):
    large, small = runs
    maker, other = loaded(large, guided_by(large, f"{small.path}@320")), loaded(small, run_config(small))
    other.load(choose_weights(small, 320, "ema")[0])
    x, t, y = torch.randn(5, 1, 8, 8), torch.full((5,), 0.4), torch.arange(5)
    own, its = maker.guided.model(x, t, y), other.guided.model(x, t, y)
    assert torch.allclose(maker.guided(x, t, y), its + 2.0 * (own - its), atol=1e-6) and not torch.allclose(own, its)
    first = Guided(lambda x, t, y: own.repeat(1, 4, 1, 1), 2.0, 10, channels="first3", guide=lambda x, t, y: its.repeat(1, 4, 1, 1))
    out = first(x.repeat(1, 4, 1, 1), t, y)
    assert torch.allclose(out[:, :3], (its + 2.0 * (own - its)).repeat(1, 3, 1, 1), atol=1e-6) and torch.equal(out[:, 3:], own)


def test_its_passes_count_by_its_flops_and_the_passport_names_it(runs):
    large, small = runs
    config = guided_by(large, f"{small.path}@320")
    Evaluator(config, World(0, 1, torch.device("cpu"))).evaluate(large, large.checkpoints / "images-000000000640")
    [line] = read_lines(large.evals)
    own, its = run_card(config).flops, run_card(run_config(small)).flops
    assert line["passport"]["guide"] == "atto-4@320 ema" and line["passport"]["nfe"] == 3
    assert line["sampling_flops"] == 64 * 3 * (own + its) and line["forwards_per_image"] == pytest.approx(3 * (1 + its / own))
    assert "guide" not in json.dumps(config.science())                         # a path; the passport has its identity


def test_evaluate_and_sample_take_it_and_the_search_too(runs, tmp_path):
    large, small = runs
    search = json.dumps({"points": 5, "samples": 32})
    done = CliRunner().invoke(main, ["evaluate", str(large.path), f"guide={small.path}", "guidance=best", f"guidance_search={search}"])
    assert done.exit_code == 0, done.output
    [line] = read_lines(large.evals)
    assert line["passport"]["guide"] == "atto-4@640 ema" and line["passport"]["selected_on"]
    made = CliRunner().invoke(main, ["sample", str(large.path), str(tmp_path / "a.npz"), "--images", "8", f"guide={small.path}", "guidance_scale=2"])
    assert made.exit_code == 0, made.output
    assert json.loads((tmp_path / "a.npz.json").read_text())["passport"]["guide"] == "atto-4@640 ema"


def test_a_checkpoint_does_not_guide_itself(runs, tmp_path):
    """Nothing is scored or made; an earlier checkpoint of the run guides."""
    large, _ = runs
    made = str(tmp_path / "a.npz")
    for command in (["evaluate", str(large.path)], ["evaluate", str(large.path), "--all"], ["sample", str(large.path), made, "--images", "8"]):
        done = CliRunner().invoke(main, [*command, f"guide={large.path}", "guidance_scale=2"])
        assert done.exit_code == 2 and "@640 is the checkpoint that it would guide" in done.output and "\n" not in done.output.strip(), done.output
    assert not large.evals.exists() and not (tmp_path / "a.npz").exists()
    done = CliRunner().invoke(main, ["evaluate", str(large.path), f"guide={large.path}@320", "guidance_scale=2"])
    assert done.exit_code == 0, done.output


def test_a_study_does_not_score_its_guide_by_itself(hand_run, digits_values):
    """A launch refuses the run itself at a checkpoint that is scored; one that is not may guide."""
    own = hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"]}, checkpoints=(320, 640))

    def check(guide, run=own, **evaluation):
        check_inputs([PlannedRun(guided_by(own, guide, **evaluation), run)])

    for guide in (own.path, f"{own.path}@640", f"{own.path.parent}/./{own.path.name}@320"):
        with pytest.raises(UserError, match="evaluation.guide .* is the run .* itself at a checkpoint that is scored"):
            check(guide)
    check(f"{own.path}@320", every_images=640)
    check(own.path, run=RunDir(own.path.with_name("other")))


def test_no_label_dropout_is_needed(runs):
    large, small = runs
    record = large.read_record()["config"]
    record["model"]["class_dropout_prob"] = 0.0
    with pytest.raises(UserError, match="class_dropout_prob above 0"):
        resolve({**record, "evaluation": {**record["evaluation"], "guidance_scale": 2.0}}, "test")
    resolve({**record, "evaluation": {**record["evaluation"], "guidance_scale": 2.0, "guide": str(small.path)}}, "test")


@pytest.mark.parametrize("changes, words", [
    ({"data.resolution": 16}, "data.resolution 16, and this run with 8: a guide makes the same images"),
    ({"data.channels": 3}, "data.channels 3"), ({"data.name": "other"}, "data.name other"),
    ({"data.latent_scale": [0.5], "data.latent_shift": [0.0]}, "data.latent_scale"),
    ({"formulation": {"name": "edm"}}, "has another formulation \\(edm")])
def test_a_guide_of_other_images_is_refused(runs, hand_run, changes, words):
    other = hand_run({"model.name": "DiT-atto/8", **changes}, name="other")
    with pytest.raises(UserError, match=words):
        find_guide(str(other.path), run_config(runs[0]), "ema")


def test_wrong_guides_are_one_line(runs, tmp_path):
    large, small = runs
    for text, words in ((tmp_path / "none", "is no run"), (f"{small.path}@early", "no number of images seen"), (f"{small.path}@5", "5")):
        with pytest.raises(UserError, match=words) as told:
            find_guide(str(text), run_config(large), "ema")
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="has no effect with evaluation.guidance_scale 1"):
        guided_by(large, small.path, guidance_scale=1.0)
