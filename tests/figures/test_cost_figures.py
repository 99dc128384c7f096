"""Cost against quality and the frontier: arrows with their verdicts, probabilities, published points, refusals."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import style
from ditscale.figures.plots import cost_quality, frontier


def options(**given):
    return SimpleNamespace(**{"study": "made", "cost": "train_flops", "price": None, "over": "baseline", **given})


@pytest.fixture
def variants(study):
    """Baseline, a masked variant that costs half, and a discriminative one that differs by luck alone; two models, three seeds."""
    return make_variants(study)


def make_variants(study, seeds=(0, 1, 2)) -> pd.DataFrame:
    rows = study(seeds=seeds, noise=0.0)
    rows, rng, parts = rows[rows["model"].isin(["DiT-nano/2", "DiT-pico/4"])], np.random.default_rng(1), []
    for variant, cost in (("baseline", 1.0), ("masked", 0.5), ("discriminative", 1.0)):
        own = rows.assign(variant=variant, run_id=rows["run_id"] + variant, train_flops=rows["train_flops"] * cost,
                          recipe=rows["model"] + variant)
        luck = {run: np.exp(0.01 * rng.standard_normal()) for run in own["run_id"].unique()}
        own["score"] = 30.0 * (rows["train_flops"] / 1e12) ** -0.4 * own["run_id"].map(luck)
        own["accelerator_hours"] = own["train_flops"] / 1e15
        parts.append(own)
    return pd.concat(parts, ignore_index=True)


def test_the_effective_speedup_is_in_the_caption_and_the_card(variants):
    with pytest.raises(UserError, match="choose them with --where metric=loss"):
        cost_quality.draw(variants, options(floor=1.0, exponent=0.3))
    with pytest.raises(UserError, match="give both --floor E and --exponent"):
        cost_quality.draw(variants, options(floor=1.0))
    losses = variants.assign(metric="loss", score=1.0 + variants["score"] / 30)
    drawing = cost_quality.draw(losses, options(floor=1.0, exponent=0.4))
    masked = [one for one in drawing.card["speedups"] if one["variant"] == "masked"]
    assert {one["model"] for one in masked} == {"DiT-nano/2", "DiT-pico/4"}
    assert all(one["speedup"] == pytest.approx(2.0, rel=0.15) and one["low"] < one["speedup"] < one["high"] for one in masked)
    assert "nano/2: REAL: to reach the loss of masked" in drawing.caption and "E = 1 and alpha = 0.4 pinned" in drawing.caption
    assert "speedups" not in cost_quality.draw(variants, options()).card


def texts(drawing) -> list[str]:
    return [text.get_text() for text in drawing.figure.axes[0].texts if text.get_text()]


def test_arrows_are_real_or_grey_with_the_word(variants):
    drawing = cost_quality.draw(variants, options())
    said = {text.get_text().split(":")[0]: text for text in drawing.figure.axes[0].texts if text.get_text()}
    assert said["masked"].get_text().startswith("masked: 2.0 × cheaper (") and said["masked"].get_color() == style.INK
    assert said["discriminative"].get_text().endswith("INCONCLUSIVE") and said["discriminative"].get_color() == style.MUTED
    assert "REAL: for the same fd_digits_cnn masked takes" in drawing.caption and "passport 5f1d0c2ab3e4" in drawing.caption
    card = {one["variant"]: one for one in drawing.card["multipliers"]}
    assert card["masked"]["overall"]["multiplier"] == pytest.approx(2.0, rel=0.1)


def turning(variants) -> pd.DataFrame:
    """Masked wins early and is passed: its scores fall slower."""
    rows = variants[variants["model"] == "DiT-nano/2"]
    middle = np.sqrt(rows["train_flops"].min() * rows["train_flops"].max())
    slower = np.where(rows["variant"] == "masked", (2 * rows["train_flops"] / middle) ** 0.25, 1.0)
    return rows.assign(score=rows["score"] * slower)


def test_where_a_difference_turns_there_is_an_arrow_on_each_side(variants, tmp_path):
    drawing = cost_quality.draw(turning(variants)[lambda rows: rows["variant"] != "discriminative"], options())
    early, late = sorted(texts(drawing), key=lambda text: "dearer" in text)
    assert "× cheaper (" in early and "\nup to fd_digits_cnn" in early and "× dearer (" in late and late.endswith(" on")
    arrows = [text for text in drawing.figure.axes[0].texts if not text.get_text()]
    assert sorted(np.sign(arrow.xy[0] - arrow.xyann[0]) for arrow in arrows) == [-1, 1]
    assert "TURNS: for the same fd_digits_cnn masked is cheaper up to" in drawing.caption and "REAL: for" not in drawing.caption
    assert drawing.card["multipliers"][0]["overall"]["verdict"] == "TURNS"


def test_an_outlier_is_named_in_figure_and_caption(variants):
    last = variants["images_seen"] == variants["images_seen"].max()
    bad = variants["run_id"] == variants.loc[variants["variant"] == "masked", "run_id"].iloc[0]
    variants.loc[bad & last, "score"] *= 5.0
    run = variants.loc[bad, "run_id"].iloc[0]
    drawing = cost_quality.draw(variants, options())
    assert f"outlier {run}" in texts(drawing) and f"Outlier: run '{run}' of masked scores" in drawing.caption
    assert "Without it: " in drawing.caption and drawing.card["multipliers"][0]["without_outliers"]


def test_one_seed_is_no_verdict_and_one_variant_no_arrow(study, variants):
    drawing = cost_quality.draw(make_variants(study, seeds=(0,)), options())
    assert all(text.endswith("INCONCLUSIVE") and "to" not in text.split("×")[1] for text in texts(drawing))
    assert "One seed per curve" in drawing.caption and not drawing.figure.axes[0].collections
    alone = cost_quality.draw(variants[variants["variant"] == "masked"], options())
    assert not texts(alone) and alone.card is None and "no two variants of one model" in alone.caption


def test_costs_in_hours_and_money(variants):
    hours = cost_quality.draw(variants, options(cost="accelerator_hours"))
    money = cost_quality.draw(variants, options(cost="money", price=2.5))
    assert np.allclose(money.points["cost"], 2.5 * hours.points["cost"])
    assert hours.figure.axes[0].get_xlabel() == "Training time (accelerator-hours)" and "money at 2.5" in money.caption
    for draw in (cost_quality.draw, frontier.draw):
        with pytest.raises(UserError, match="--cost money needs the price"):
            draw(variants, options(cost="money"))
        with pytest.raises(UserError, match="accelerator-hours is not known for any row"):
            draw(variants.assign(accelerator_hours=np.nan), options(cost="accelerator_hours"))


def test_two_recipes_are_no_repetitions(variants):
    variants.loc[variants["seed"] == 1, "recipe"] = "other"
    with pytest.raises(UserError, match="trained by 2 recipes, which are not repetitions"):
        cost_quality.draw(variants, options())
    with pytest.raises(UserError, match="--over nothing: no such variant"):
        cost_quality.draw(variants, options(over="nothing"))
    with pytest.raises(UserError, match="mixes passport"):
        cost_quality.draw(variants.assign(passport=np.where(variants["seed"] == 0, "a", "b")), options())


def test_published_points_get_no_arrows(repository, tmp_path, capsys):
    folder = str(repository / "analysis" / "published")
    assert cost_quality.main([folder, "--out", str(tmp_path), "--cost", "images_seen"]) == 0
    points, caption = pd.read_csv(tmp_path / "cost_quality.csv"), (tmp_path / "cost_quality.txt").read_text()
    assert {"DiT-XL/2", "MDT-XL/2", "MaskDiT-XL/2", "SD-DiT-XL/2"} <= set(points["model"])
    assert "nothing is interpolated between different papers' recipes" in caption and not (tmp_path / "cost_quality.json").exists()
    assert cost_quality.main([folder, "--out", str(tmp_path), "--cost", "accelerator_hours"]) == 0
    assert pd.read_csv(tmp_path / "cost_quality.csv")[["model", "cost"]].values.tolist() == [["MaskDiT-XL/2", 2080.0]]
    assert "SD-DiT-XL/2" in (tmp_path / "cost_quality.txt").read_text()                 # among those of unknown cost


def test_the_frontier_has_its_probabilities(variants, tmp_path):
    drawing = frontier.draw(variants, options())
    points = drawing.points.set_index("cell")
    on = points[points["on_frontier"]]
    assert set(on["variant"]) >= {"masked"} and on["probability_on_frontier"].between(0, 1).all()
    assert any("p = " in text for text in texts(drawing))
    beaten = points[~points["on_frontier"]]
    assert (beaten["strongest_rival"] != "").all() and (beaten["probability_beaten_by_it"] > 0.3).all()
    assert on["score"].is_monotonic_decreasing and on["cost"].is_monotonic_increasing
    paths = style.save(drawing, tmp_path)
    assert json.loads(paths[-1].read_text())["status"] == "CONVERGED"


def test_a_frontier_of_one_seed_has_none(study, variants):
    drawing = frontier.draw(make_variants(study, seeds=(0,)), options())
    assert "INCONCLUSIVE" in drawing.caption and drawing.points["probability_on_frontier"].isna().all()
    assert not any("p = " in text for text in texts(drawing))
    with pytest.raises(UserError, match="no column 'recipe'"):
        frontier.draw(variants.drop(columns="recipe"), options())
