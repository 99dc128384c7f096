"""Cost against quality and the frontier: arrows with their verdicts, probabilities, published points, refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import style
from ditscale.figures.plots import cost_quality, frontier
from ditscale.studies.table.study import Study


def options(**given):
    return SimpleNamespace(**{"study": "made", "cost": "train_flops", "price": None, "over": "baseline", "images_to_make": None, **given})


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
    assert (hours.name, cost_quality.draw(variants, options()).name) == ("cost_quality_accelerator_hours", "cost_quality")
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
    points, caption = pd.read_csv(tmp_path / "cost_quality_images_seen.csv"), (tmp_path / "cost_quality_images_seen.txt").read_text()
    assert {"DiT-XL/2", "MDT-XL/2", "MaskDiT-XL/2", "SD-DiT-XL/2"} <= set(points["model"])
    assert "nothing is interpolated between different papers' recipes" in caption and not (tmp_path / "cost_quality_images_seen.json").exists()
    assert cost_quality.main([folder, "--out", str(tmp_path), "--cost", "accelerator_hours"]) == 0
    assert pd.read_csv(tmp_path / "cost_quality_accelerator_hours.csv")[["model", "cost"]].values.tolist() == [["MaskDiT-XL/2", 2080.0]]
    assert "SD-DiT-XL/2" in (tmp_path / "cost_quality_accelerator_hours.txt").read_text()                 # among those of unknown cost


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


def three_sizes(study, seeds=(0, 1, 2)) -> pd.DataFrame:
    """Three sizes of one patch size, whose scores cross: the smallest is best at the least compute."""
    rows = study(seeds=seeds, noise=0.0)
    rows = rows[rows["model"].isin(["DiT-atto/2", "DiT-femto/2", "DiT-pico/2"])]
    rng = np.random.default_rng(2)
    luck = rows["run_id"].map({run: np.exp(0.002 * rng.standard_normal()) for run in rows["run_id"].unique()})
    score = 2 + 5e3 * rows["macs"] ** -0.5 + 2e3 * rows["images_seen"].astype(float) ** -0.5
    return rows.assign(recipe=rows["model"], score=score * luck).reset_index(drop=True)


def test_images_to_make_move_the_frontier(study, tmp_path):
    rows = three_sizes(study)
    plain, none, many = (frontier.draw(rows, options(images_to_make=n)) for n in (None, 0.0, 1e7))
    assert np.allclose(plain.points["cost"], none.points["cost"]) and plain.points["on_frontier"].equals(none.points["on_frontier"])
    cells = many.points.set_index("cell")
    last = rows[(rows["model"] == "DiT-pico/2") & rows["final"]].iloc[0]
    assert cells.loc["pico/2 baseline 640,000", "cost"] == pytest.approx(last["train_flops"] + 1e7 * 2 * last["macs"] * 50)   # NFE 50, unguided
    on = [set(drawing.points.loc[drawing.points["on_frontier"], "cell"]) for drawing in (plain, many)]
    assert on[0] != on[1] and {name for name in on[1] if name.startswith("atto")} > {name for name in on[0] if name.startswith("atto")}
    assert many.figure.axes[0].get_xlabel() == "Training and making 10,000,000 images (FLOPs)"
    assert "Models: atto/2, femto/2 and pico/2." in plain.caption and "Models: atto/2, femto/2 and pico/2." in many.caption
    assert "on record are 8,000 per run" in many.caption and "is cheaper than" in many.caption and "break_even" not in plain.card
    assert [(one["smaller"], one["larger"]) for one in many.card["break_even"]] == [("atto/2 baseline", "femto/2 baseline"),
                                                                                      ("femto/2 baseline", "pico/2 baseline")]
    assert json.loads(style.save(many, tmp_path)[-1].read_text())["images_to_make"] == 1e7


def test_break_even_of_a_study_is_the_cost_of_the_score(study):
    rows = three_sizes(study)
    small, _ = Study(Path("made"), rows).break_evens()
    ends = rows[rows["final"]].groupby("model")["score"].agg(["min", "max"])
    assert small.score == pytest.approx(ends.loc["DiT-atto/2", "max"], rel=1e-6)          # the best that every run of both reached
    assert small.images > 0 and small.runs == (3, 3) and small.interval.low < small.images < small.interval.high
    macs = rows.drop_duplicates("model").set_index("model")["macs"]
    assert small.images == pytest.approx((small.costs[0] - small.costs[1]) / (100 * (macs["DiT-femto/2"] - macs["DiT-atto/2"])), rel=1e-9)


def test_images_to_make_need_flops_and_a_known_cost(study):
    rows = three_sizes(study)
    with pytest.raises(UserError, match="--cost is images_seen: leave --cost out"):
        frontier.draw(rows, options(images_to_make=1e6, cost="images_seen"))
    with pytest.raises(UserError, match="--images-to-make -1"):
        frontier.draw(rows, options(images_to_make=-1.0))
    unknown = rows.assign(evaluation_flops=np.nan, nfe=np.nan)
    with pytest.raises(UserError, match="cost of an image .* is not known for any row"):
        frontier.draw(unknown, options(images_to_make=1e6))
    partly = rows.assign(evaluation_flops=rows["evaluation_flops"].where(rows["model"] != "DiT-atto/2"),
                         nfe=rows["nfe"].where(rows["model"] != "DiT-atto/2"))
    assert "is not known: DiT-atto/2" in frontier.draw(partly, options(images_to_make=1e6)).caption
    interval = with_interval(rows.assign(evaluation_flops=np.nan, guidance_scale=2.0))
    with pytest.raises(UserError, match="is not known for any row"):                        # how many steps run the model twice is not known
        frontier.draw(interval, options(images_to_make=1e6))


def with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(passport_fields=json.dumps({"guidance_interval": "0.1..0.7", "guidance_scale": 2.0}))
