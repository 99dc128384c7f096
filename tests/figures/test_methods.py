"""Methods against the plain baseline at equal training FLOPs: names, numbers by hand, what is not compared, the table in Markdown."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.figures.kit import method_table, style
from ditscale.figures.plots import methods
from ditscale.studies.table.method import method_of

IMAGES = (1000, 2000, 4000)


def rows_of(method: str, seed: int, factor: float, metric: str = "loss", passport: str = "a", cost: float = 100.0) -> list[dict]:
    """One run whose scores are ``factor`` times 8 / images^0.3 with a little noise of its seed."""
    noise = np.exp(0.003 * np.random.default_rng([seed, len(method)]).standard_normal(len(IMAGES)))
    return [{"run_id": f"{method}-s{seed}", "recipe": method, "model": "DiT-femto/2", "size": "femto", "patch_size": 2, "variant": method.partition(", ")[0],
             "method": method, "formulation": "flow", "seed": seed, "parameters": 10, "tokens": 16, "macs": 1e6, "images_seen": seen,
             "final": seen == IMAGES[-1], "train_flops": cost * seen, "metric": metric, "score": factor * 8 / (cost * seen) ** 0.3 * own, "floor": np.nan,
             "samples": 500, "passport": passport, "passport_fields": f'{{"levels": "{passport}"}}', "sample_seeds": 1, "accelerator_hours": 1.0}
            for seen, own in zip(IMAGES, noise)]


@pytest.fixture
def table():
    better = [row for seed in range(3) for row in rows_of("baseline, with dispersive (group=8 tau=1)", seed, 0.9)]
    alike = [row for seed in range(3) for row in rows_of("tread", seed, 1.0005, cost=50.0)]
    other = [row for seed in range(3) for row in rows_of("baseline, time_shift=2", seed, 0.5, passport="b")]
    once = rows_of("masked, mask_ratio=0.75", 0, 0.8)
    scores = [row for method, factor, cost in (("baseline", 1, 100.0), ("tread", 1.2, 50.0)) for seed in range(3)
              for row in rows_of(method, seed, factor, "fd_digits_cnn", cost=cost)]
    return pd.DataFrame([row for seed in range(3) for row in rows_of("baseline", seed, 1.0)] + better + alike + other + once + scores)


def test_verdicts_of_known_differences(table):
    found = {one.label: one for one in method_table.compare(table)}
    assert list(found)[0] == "baseline" and list(found)[1:3] == ["masked", "with dispersive"]      # best first by the loss
    loss, score = found["with dispersive"].results
    assert loss.is_real and loss.change == pytest.approx(-0.1, abs=0.01) and score.why == "not measured"
    assert loss.multiplier.overall.value == pytest.approx(0.9 ** (-1 / 0.3), rel=0.03)
    assert found["tread"].flops_ratio == 0.5 and not found["tread"].results[0].is_real
    assert found["tread"].results[1].change == pytest.approx(0.2, abs=0.02) and found["tread"].results[1].is_real
    assert not found["masked"].results[0].is_real                              # one seed
    assert found["time_shift=2"].results[0].why == "measured differently (levels)" and found["time_shift=2"].results[0].change is None


def test_figure_and_files(table, tmp_path):
    drawing = methods.draw(table)
    assert "time_shift=2: Validation loss measured differently (levels)" in drawing.caption and "with dispersive: " in drawing.caption
    written = style.save(drawing, tmp_path)[-1]
    lines = written.read_text().splitlines()
    assert written.name == "methods.md"
    assert len({line.count("|") for line in lines}) == 1 and lines[2].startswith("| femto/2 | baseline | 3 | 1 |")
    assert any("with dispersive" in line and " REAL" in line for line in lines)


def test_at_equal_images(table):
    """Runs of half the images, as equal FLOPs give a method that costs twice: scores are compared where both were, between evaluations if need be."""
    half = table[(table["method"] == "tread") & (table["metric"] == "loss")].assign(images_seen=lambda own: (own["images_seen"] * 0.4).astype(int))
    both = pd.concat([table[(table["method"] == "baseline") & (table["metric"] == "loss")], half], ignore_index=True)
    [_, tread] = method_table.compare(both)
    found = tread.results[0].at_images
    assert found.at == 1600 and found.difference.change == pytest.approx((4000 * 50 / (1600 * 100)) ** -0.3 - 1, abs=0.01)
    assert found.difference.verdict == "REAL"
    assert method_table.as_frame([tread])["equal_images"].item() == 1600 and "loss at equal images" in method_table.markdown([tread])


def test_the_figure_at_equal_images_and_beyond_its_frame(table):
    """A method that diverged is named and not drawn to scale; a metric without a comparison has no panel."""
    far = [row for seed in range(3) for row in rows_of("tread, start=1", seed, 4.0)]
    both = pd.concat([table[table["metric"] == "loss"], pd.DataFrame(far)], ignore_index=True)
    drawing = methods.draw(both, SimpleNamespace(over="", at="images"))
    assert "at equal images seen" in drawing.caption and "Beyond the frame (triangles): tread, start=1 +" in drawing.caption
    assert all(axes.get_xlim()[1] <= methods.MOST for axes in drawing.figure.axes)
    alone = pd.concat([table[table["metric"] == "loss"], pd.DataFrame(rows_of("baseline", 0, 1.0, "fd_digits_cnn"))], ignore_index=True)
    assert [axes.get_title() for axes in methods.draw(alone).figure.axes] == ["Validation loss"]


def test_models_are_in_the_order_of_their_size(table):
    large = table.assign(model="DiT-atto/2", size="atto", run_id="large-" + table["run_id"], macs=2e6)
    assert [one.model for one in method_table.compare(pd.concat([large, table], ignore_index=True))][0] == "DiT-femto/2"


def test_another_reference(table, tmp_path):
    """A sweep of one variant's options has no baseline; names are what differs from the reference."""
    sweep = [row for name, factor in (("mdt, mask_ratio=0.3, side=2", 1.0), ("mdt, mask_ratio=0.5, side=2", 0.8), ("mdt, side=2", 1.2), ("tread", 1.0))
             for seed in range(3) for row in rows_of(name, seed, factor)]
    found = {one.label: one.results[0] for one in method_table.compare(pd.DataFrame(sweep), "mdt, mask_ratio=0.3")}
    assert list(found) == ["mdt, mask_ratio=0.3", "mask_ratio=0.5", "tread", "mask_ratio: default"]
    assert found["mask_ratio=0.5"].change == pytest.approx(-0.2, abs=0.01)
    assert found["mask_ratio: default"].multiplier.overall.value < 1
    pd.DataFrame(sweep).to_csv(tmp_path / "table.csv", index=False)
    words = [str(tmp_path / "table.csv"), "--out", str(tmp_path), "--format", "png"]
    command = methods.SCRIPT.command("methods")
    assert CliRunner().invoke(command, [*words, "--over", "mdt, mask_ratio=0.3"]).exit_code == 0
    assert "relative to mdt, mask_ratio=0.3. " in (tmp_path / "methods.txt").read_text()
    for over, said in (("mdt, mask_ratio=0.4", "no method of this study is 'mdt, mask_ratio=0.4'"), ("", "no method of this study is the plain baseline"),
                       ("side=2, mask_ratio=0.9", "no method")):
        with pytest.raises(UserError, match=said):
            method_table.compare(pd.DataFrame(sweep), over)


def test_several_models_are_named(table):
    """In the caption and at the points: a method's cost is that of its model."""
    both = pd.concat([table, table.assign(model="DiT-nano/2", size="nano", run_id="nano-" + table["run_id"])], ignore_index=True)
    caption, labels = methods.draw(both).caption, [text.get_text() for text in methods.draw(both).figure.axes[0].get_yticklabels()]
    assert "Methods of femto/2 and nano/2 at equal training FLOPs" in caption and "femto/2 tread 0.5, " in caption and "nano/2 tread 0.5" in caption
    assert "femto/2 time_shift=2: Validation loss measured differently" in caption and "nano/2 tread" in labels
    assert "femto/2 tread" not in methods.draw(table).caption


def test_methods_are_compared_once(table, tmp_path, monkeypatch):
    """For the picture, its points and the table of the command."""
    calls = []
    monkeypatch.setattr(method_table, "compare", lambda *words, real=method_table.compare: calls.append(1) or real(*words))
    table.to_csv(tmp_path / "table.csv", index=False)
    done = CliRunner().invoke(methods.SCRIPT.command("methods"), [str(tmp_path / "table.csv"), "--out", str(tmp_path), "--format", "png"])
    assert done.exit_code == 0 and (tmp_path / "methods.md").is_file() and len(calls) == 1, done.output


def test_without_the_baseline(table):
    with pytest.raises(UserError, match="plain baseline"):
        methods.draw(table[table["method"] != "baseline"])


@pytest.mark.parametrize("changes, name", [
    ({}, "baseline"),
    ({"objective": {"name": "masked", "mask_ratio": 0.75}}, "masked, mask_ratio=0.75"),
    ({"model.block": "cross_attention", "model.qk_norm": True}, "baseline, block=cross_attention, qk_norm=true"),
    ({"train.optimizer": {"name": "muon"}, "train.lr": 0.01, "seed": 3}, "baseline, optimizer=muon"),
    ({"train.grad_clip": 0.5}, "baseline, grad_clip=0.5"),
])
def test_names_are_settings_that_are_not_defaults(digits_values, changes, name):
    from ditscale.dotted import set_key

    for key, value in changes.items():
        set_key(digits_values, key, value)
    assert method_of(resolve(digits_values, "config")) == name


def test_a_multiplier_that_turns_says_where(table):
    factors = {1000: 0.85, 2000: 1.0, 4000: 1.18}
    turning = [{**row, "score": row["score"] * factors[row["images_seen"]]} for seed in range(3) for row in rows_of("sprint", seed, 1.0)]
    told = method_table.markdown(method_table.compare(pd.concat([table, pd.DataFrame(turning)])))
    line, = (line for line in told.splitlines() if "sprint" in line)
    assert re.search(r"TURNS: cheaper up to 0\.\d+; dearer from 0\.\d+ on", line)
