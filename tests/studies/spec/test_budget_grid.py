"""IsoFLOP designs: every run costs its budget, and every grid lies around the optimum that is expected."""

import math

import pytest
import yaml
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cost.runs import run_card, training_flops
from ditscale.errors import UserError
from ditscale.models.sizes import parse_model_name
from ditscale.studies.spec.budget_grid import Center, IsoFlopCurve, isoflop_curves
from ditscale.studies.spec.spec import expand, load_spec

BUDGETS = [1e17, 3e17, 1e18, 3e18, 1e19]


@pytest.fixture
def spec_of(tmp_path, values):
    """The path of a spec on 32 x 32 x 4 latents with these changes."""
    def make(**changes):
        values["data"] |= {"path": str(tmp_path / "none.beton"), "resolution": 32, "channels": 4, "classes": 1000}
        values["train"] = {"global_batch": 256, "checkpoints": 1}
        values["model"].pop("name", None)
        spec = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "config": {**values, "evaluation": None},
                "isoflop": {"budgets": [1e17, 1e18]}, "runs_dir": str(tmp_path / "runs"), **changes}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return path
    return make


def runs_of(path, *overrides):
    return expand(load_spec(path, overrides), str(path))


def test_the_shipped_study_spends_its_budgets(repository):
    path = repository / "sweeps" / "imagenet256_isoflop.yaml"
    spent = [training_flops(run.config, run.config.train.images) for run in runs_of(path)]
    nearest = [min(BUDGETS, key=lambda budget: abs(budget - flops)) for flops in spent]
    assert nearest == [budget for budget in BUDGETS for _ in range(5)]
    assert all(0.998 < flops / budget <= 1 for flops, budget in zip(spent, nearest))
    assert all(not curve.warning for curve in isoflop_curves(load_spec(path).isoflop, load_spec(path).config, "x"))


def test_a_grid_lies_around_the_expected_optimum(spec_of):
    """Liang et al.: N* = 0.0009 C^0.5681, 9.6e8 parameters at 1.5e21. Five sizes in even steps from a quarter to four times."""
    assert Center().at(1.5e21) == pytest.approx(9.583e8, rel=0.01)             # as published; 9.647e8 by the printed digits
    spec = load_spec(spec_of())
    for curve in isoflop_curves(spec.isoflop, spec.config, "x"):
        steps = [math.log2(size / curve.optimum) for size in curve.models.values()]
        assert steps == pytest.approx([-2, -1, 0, 1, 2], abs=0.25) and curve.warning == ""
        proportions = [parse_model_name(name).dims for name in curve.models]
        assert all(32 <= size.hidden_size / size.depth <= 64 and size.hidden_size == 64 * size.num_heads for size in proportions)


def test_size_is_compute_an_image(spec_of):
    """6 N T FLOPs of training an image: for DiT-XL/2 N is 463 M, of its 675 M parameters."""
    spec = load_spec(spec_of(isoflop={"budgets": [1e20], "models": ["DiT-B/2", "DiT-L/2", "DiT-XL/2"], "sizes": 3}))
    [curve] = isoflop_curves(spec.isoflop, spec.config, "x")
    [run] = runs_of(spec_of(isoflop=None), "model.name=DiT-XL/2", "train.images=256")
    assert curve.models["DiT-XL/2"] == run_card(run.config).train_flops_per_image / 6 / 256 == pytest.approx(463e6, rel=0.01)


def test_models_are_the_same_for_all_variants_and_can_be_chosen(spec_of):
    bundles = {"variant": {"plain": {"objective.name": "baseline"}, "mdt": {"objective.name": "mdt"}}}
    path = spec_of(bundles=bundles, exclude=[{"train.flops": 1e18, "variant": "mdt"}])
    runs = runs_of(path)
    assert len(runs) == 15
    plain, mdt = ([run.config.model.name for run in runs_of(path, "train.flops=1e17", f"variant={name}")] for name in ("plain", "mdt"))
    assert plain == mdt and len(plain) == 5
    [one] = runs_of(path, f"model.name={plain[0]}", "variant=mdt")
    assert one.run_id in {run.run_id for run in runs}


def test_what_lies_beside_the_optimum_is_told(spec_of):
    def warning(*sizes):
        return IsoFlopCurve(1e18, 1.0, {str(size): size for size in sizes}).warning
    assert warning(0.25, 1, 4) == warning(0.5, 2) == ""
    assert "outside: no model is larger" in warning(0.1, 0.9) and "outside: no model is smaller" in warning(1.1, 4)
    assert "at the edge: the larger side reaches 1.2 times" in warning(0.25, 1, 1.2)
    assert "the grid reaches 16 times" in warning(1 / 16, 1, 16)
    path = spec_of(isoflop={"budgets": [1e17], "models": ["DiT-L/2", "DiT-XL/2", "DiT-B/2"], "sizes": 3})
    said = CliRunner().invoke(main, ["plan", str(path), "--on", "H100"]).output
    assert "outside: no model is smaller" in said and "4.09 M" in said and "B/2 22x" in said


@pytest.mark.parametrize("changes, words", [
    ({"isoflop": {"budgets": []}}, "isoflop.budgets"),
    ({"isoflop": {"budgets": [1e18], "sizes": 2}}, "'isoflop.sizes' is 2"),
    ({"isoflop": {"budgets": [1e18], "span": 1}}, "'isoflop.span' is 1"),
    ({"isoflop": {"budgets": [1e18, 1e18]}}, "isoflop.budgets has an entry twice"),
    ({"isoflop": {"budgets": [1e18], "models": ["DiT-S/2"]}}, "isoflop.sizes is 5, but isoflop.models has 1 entries"),
    ({"isoflop": {"budgets": [1e18], "models": ["DiT-S/0"]}}, "no patch size 0"),
    ({"isoflop": {"budgets": [1e18], "models": ["DiT-S/2"], "patch_size": 4}}, "leave isoflop.patch_size out"),
    ({"isoflop": {"budgets": [1e18], "centr": {}}}, "did you mean 'center'"),
    ({"budgets": {"flops": [1e18]}}, "isoflop decides models and lengths; leave budgets"),
    ({"parameters": {"model.name": {"value": "DiT-S/2"}}}, "isoflop decides models and lengths"),
    ({"exclude": [{"model.nam": "x"}]}, "did you mean 'model.name'"),
    ({"isoflop": {"budgets": [1e9]}}, "is too small for 256 images"),
])
def test_what_is_wrong_is_named(spec_of, changes, words):
    with pytest.raises(UserError) as error:
        runs_of(spec_of(**changes))
    assert words in str(error.value) and "\n" not in str(error.value)
