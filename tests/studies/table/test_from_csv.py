"""A plain CSV as a study: the page's own example, what is filled in, and what is refused in one line."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.studies.table.study import Study

PAGE = Path(__file__).parents[3] / "docs" / "csv.md"
PLAIN = pd.DataFrame([(model, seed, images, 3e4 * size * images, 90 * (size * images) ** -0.2 * (1 + 0.01 * seed))
                      for model, size in (("DiT-S/2", 1), ("DiT-B/4", 4)) for seed in (0, 1, 2) for images in (10_000, 20_000, 40_000)],
                     columns=["model", "seed", "images_seen", "train_flops", "score"])


@pytest.fixture
def load(tmp_path):
    def made(rows: pd.DataFrame, **given) -> Study:
        rows.to_csv(tmp_path / "runs.csv", index=False)
        return Study.from_csv(tmp_path / "runs.csv", **given)
    return made


def test_the_pages_example_runs(tmp_path, monkeypatch, capsys):
    """Made so that masked reaches a score at 1 / 0.6 of the speed, less what 2 % of score cost at slope 0.17: 1.48 times cheaper."""
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(PAGE.read_text().split("```python\n")[1].split("```")[0], "docs/csv.md", "exec"), names)
    overall = names["found"].overall
    assert overall.interval is not None and 1 / 0.6 * 1.02 ** (-1 / 0.17) in overall.interval
    assert names["law"].law.alpha == pytest.approx(0.17, abs=0.02) and len(names["ends"]) == 9
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_every_documented_column_is_filled_in(load):
    table = load(PLAIN).table()
    documented = set(re.findall(r"`([a-z_]+)`", " ".join(line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `"))))
    assert documented - {"steps", "global_batch"} <= {*table.columns}
    assert table["run_id"].nunique() == 6 and table["recipe"].unique().tolist() == ["DiT-S/2 baseline", "DiT-B/4 baseline"]
    assert table[["size", "patch_size"]].drop_duplicates().to_numpy().tolist() == [["S", 2], ["B", 4]]
    assert table["final"].sum() == 6 and (table.loc[table["final"], "images_seen"] == 40_000).all()
    assert table["train_flops_per_image"].unique().tolist() == [3e4, 12e4] and table["macs"].isna().all()


def test_costs_and_progress_follow_from_other_columns(load):
    macs = PLAIN.drop(columns="train_flops").assign(macs=5e3).rename(columns={"images_seen": "steps"}).assign(global_batch=32)
    table = load(macs).table()
    assert (table["images_seen"] == 32 * PLAIN["images_seen"]).all()
    assert (table["train_flops"] == 6 * 5e3 * table["images_seen"]).all()
    assert load(macs, variant="masked").table()["train_flops"].isna().all()            # a masked pass costs something else: not made up
    per_image = load(PLAIN.drop(columns="images_seen").assign(train_flops_per_image=1e4)).table()
    assert (per_image["images_seen"] == (PLAIN["train_flops"] / 1e4).round()).all()


def test_other_settings_are_no_seeds(load):
    two = pd.concat([PLAIN.assign(lr=1e-4), PLAIN.assign(lr=2e-4, score=PLAIN["score"] * 1.2)])
    two = pd.concat([two.assign(variant="baseline"), two.assign(variant="masked", score=two["score"] * 0.9)])
    study = load(two)
    assert study.table()["recipe"].nunique() == 8 and study.noise().sigma < 0.02
    with pytest.raises(UserError, match=r"was trained by 2 recipes \(lr 0.0001 and 0.0002\)"):
        study.multiplier("masked")
    assert study.where(lr=1e-4).multiplier("masked").overall.seeds == (3, 3)


def test_runs_without_seeds_are_numbered(load):
    named = PLAIN.assign(run_id=PLAIN["model"] + "-" + PLAIN["seed"].map("abc".__getitem__)).drop(columns="seed")
    assert load(named).table().drop_duplicates("run_id").groupby("model")["seed"].apply(list).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("change, given, message", [
    (lambda t: t.drop(columns="score"), {}, "lacks the columns 'score'"),
    (lambda t: t.drop(columns="score").assign(run_id="a"), {}, "runs.csv has no column 'score'; a table of runs needs model, score and images_seen"),
    (lambda t: t.drop(columns="score").assign(fids=t["score"]), {"columns": {"fid": "score"}}, "no column 'fid'; did you mean 'fids'"),
    (lambda t: t.assign(fid=t["score"]), {"columns": {"fid": "score"}}, "already has a column 'score'"),
    (lambda t: t.drop(columns=["images_seen", "train_flops"]), {}, "lacks the columns 'images_seen'"),
    (lambda t: t.drop(columns="seed"), {}, "lines 2 and 5: two scores of 'DiT-S/2 baseline s0' at 10,000 images; a column seed or run_id"),
    (lambda t: pd.concat([t, t]), {}, "lines 2 and 20: two scores of 'DiT-S/2 baseline s0' at 10,000 images"),
    (lambda t: t.assign(images_seen=0), {}, "line 2: images_seen '0' must be above 0"),
    (lambda t: t.assign(train_flops="1e18 FLOPs"), {}, "line 2: train_flops '1e18 FLOPs' is not a number"),
    (lambda t: t.head(0), {}, "has no evaluation"),
    (lambda t: t, {"samples": "many"}, "line 2: samples 'many' is not a number"),
])
def test_what_means_nothing_is_one_line(load, change, given, message):
    with pytest.raises(UserError, match=message) as caught:
        load(change(PLAIN), **given)
    assert "\n" not in str(caught.value)


def test_a_cost_that_is_not_known_is_told(load):
    study = load(pd.concat([PLAIN.assign(variant="baseline"), PLAIN.assign(variant="masked", score=PLAIN["score"] * 0.9)]))
    with pytest.raises(UserError, match="accelerator_hours is not known for run .* or the CSV"):
        study.multiplier("masked", cost="accelerator_hours")
    assert np.isfinite(study.multiplier("masked", cost="images_seen").overall.value)
