"""The search for the best guidance: it finds a known optimum, on other samples than those reported, and its scores are a kind of their own."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.runs import evaluation_flops, sampling_flops
from ditscale.errors import UserError
from ditscale.evaluation.best_guidance import choose
from ditscale.evaluation.evaluate import Evaluator
from ditscale.evaluation.guidance_options import GuidanceSearch
from ditscale.evaluation.passport import differences, digest
from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.settings import sweep
from ditscale.ranks import World
from ditscale.rundir import read_lines
from ditscale.scaling.golden import descend, most_points

SEARCH = {"scales": [1, 4], "points": 13, "samples": 32}


@pytest.mark.parametrize("points", [3, 4, 7, 25, 60])
def test_every_minimum_of_the_grid_is_found_with_few_points(points):
    for lowest in range(points):
        asked: dict[int, float] = {}

        def score(i, lowest=lowest, asked=asked):
            return asked.setdefault(i, (i - lowest) ** 2 + 0.1 * (i < lowest))
        assert descend(points, score) == lowest and len(asked) <= most_points(points) <= 2 * math.log(points, 1.6) + 2


def valley(best: float, bias: float = 0.0):
    """A made-up score with its minimum at ``best``; few samples shift it by ``bias`` in ln scale."""
    asked = []

    def score(scale, interval, samples):
        asked.append((scale, interval, samples))
        at = math.log(best) + (bias if samples < 1000 else 0.0) + (0.5 if interval else 0.0)
        return 10 - 2 * bool(interval) + (math.log(scale) - at) ** 2 + 50 / samples
    return score, asked


def test_a_known_optimum_is_chosen_with_few_samples_first():
    score, asked = valley(1.7)
    found = choose(GuidanceSearch(samples=100), None, 1000, score)
    grid = GuidanceSearch().grid()
    assert found.scale == min(grid, key=lambda scale: abs(math.log(scale / 1.7))) and found.interval is None and not found.at_end
    assert [count for _, _, count in asked].count(1000) == 3 and len(asked) == len(set(asked)) <= most_points(25) + 3
    assert [(one.scale, one.samples) for one in found.tried] == [(scale, count) for scale, _, count in asked]
    near = choose(GuidanceSearch(samples=100), None, 1000, valley(1.7, bias=0.06)[0])         # all samples correct what few had wrong
    assert near.scale == found.scale


def test_intervals_are_searched_each_at_its_own_scale():
    score, asked = valley(1.7)
    found = choose(GuidanceSearch(samples=100, intervals=((0.1, 0.7),)), None, 1000, score)
    assert found.interval == (0.1, 0.7) and found.scale == pytest.approx(1.7 * math.e**0.5, rel=0.04)
    assert sum(scale == 1 for scale, _, _ in asked) <= 1                       # without guidance an interval has no effect


def test_the_end_of_the_range_is_told_unless_it_is_no_guidance():
    high = choose(GuidanceSearch(samples=10), None, 10, valley(30.0)[0])
    assert high.scale == 4 and high.at_end and "widen them" in high.warning
    none = choose(GuidanceSearch(samples=10), None, 10, valley(0.2)[0])
    assert none.scale == 1 and not none.at_end and none.warning == ""
    broken = choose(GuidanceSearch(samples=10), None, 10, lambda scale, interval, count: math.nan if scale > 2 else 5 - scale)
    assert 1.8 < broken.scale <= 2 and len({one.samples for one in broken.tried}) == 1          # few are all: no second round


@pytest.fixture
def run(hand_run, digits_values):
    digits_values["evaluation"].update(samples=64, sampling_steps=2, batch=32)
    return hand_run({"evaluation": digits_values["evaluation"], "data": digits_values["data"], "model.name": "DiT-atto/8"}, checkpoints=(320, 640))


def evaluate(*arguments, code=0):
    done = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def config_of(run, **evaluation):
    record = run.read_record()["config"]
    return resolve({**record, "evaluation": {**record["evaluation"], "guidance": "best", "guidance_search": SEARCH, **evaluation}}, "test")


def test_the_reported_samples_are_never_those_that_chose(run, monkeypatch):
    """Every image that is made has the search's seed until the choice is made, and the evaluation's from then on."""
    seeds, make = [], ImageMaker.make

    def spy(self, positions, seed):
        seeds.append((seed, self.scale))
        return make(self, positions, seed)
    monkeypatch.setattr(ImageMaker, "make", spy)
    config = config_of(run, seed=3)
    Evaluator(config, World(0, 1, torch.device("cpu"))).evaluate(run, run.checkpoints / "images-000000000640")
    [line] = read_lines(run.evals)
    chosen = line["passport"]["guidance_scale"]
    assert [seed for seed, _ in seeds] == [1_000_000] * (len(seeds) - 2) + [3, 3] and {scale for seed, scale in seeds if seed == 3} == {chosen}
    assert line["passport"]["seed"] == 3 and json.loads(line["passport"]["selected_on"])["seed"] == 1_000_000
    with pytest.raises(UserError, match=r"evaluation.seed 1000000 is also evaluation.guidance_search.seed"):
        config_of(run, seed=1_000_000)
    with pytest.raises(UserError, match="is also evaluation.guidance_search.seed"):
        config_of(run, guidance_search={**SEARCH, "seed": 0})


def test_the_score_is_that_of_the_chosen_scale_and_the_search_is_paid_for(run):
    said = evaluate(run.path, "guidance=best", f"guidance_search={json.dumps(SEARCH)}")
    [line] = read_lines(run.evals)
    found, config = line["guidance_search"], config_of(run)
    assert found["scale"] == line["passport"]["guidance_scale"] and "best guidance" in said
    tried = [one for one in found["tried"] if one["samples"] == 64]
    assert len(tried) == 3 and min(tried, key=lambda one: one["score"])["scale"] == found["scale"]
    guided, plain = sampling_flops(config), sampling_flops(config) // 2           # two passes, and one at a scale of 1
    searched = sum((guided if one["scale"] != 1 else plain) * one["samples"] for one in found["tried"])
    assert line["sampling_flops"] == searched + 64 * (guided if found["scale"] != 1 else plain) <= evaluation_flops(config)
    assert evaluation_flops(config) == sampling_flops(config) * (64 + most_points(13) * 32 + 3 * 64)
    evaluate(run.path, f"guidance_scale={found['scale']}")                     # the same images, of a stated scale
    plain = read_lines(run.evals)[-1]
    assert plain["score"] == line["score"] and plain["passport"]["selected_on"] == ""
    assert plain["passport_id"] != line["passport_id"] and [name for name, _, _ in differences(plain["passport"], line["passport"])] == ["selected_on"]


def test_a_repetition_takes_the_choice_and_a_line_is_not_made_again(run):
    search = f"guidance_search={json.dumps(SEARCH)}"
    evaluate(run.path, "guidance=best", search)
    evaluate(run.path, "guidance=best", search)
    evaluate(run.path, "guidance=best", search, "seed=1")
    one, other = read_lines(run.evals)
    assert other["passport"]["guidance_scale"] == one["passport"]["guidance_scale"] and other["guidance_search"]["tried"] == []
    assert other["sampling_flops"] < one["sampling_flops"] and other["score"] != one["score"]
    assert digest(one["passport"], without=("seed",)) == digest(other["passport"], without=("seed",))


@pytest.mark.slow
def test_two_ranks_choose_the_same(run, hand_run, digits_values):
    changes = {"evaluation": digits_values["evaluation"], "data": digits_values["data"], "model.name": "DiT-atto/8"}
    other = hand_run(changes, checkpoints=(320, 640), name="other")
    words = ["guidance=best", f"guidance_search={json.dumps(SEARCH)}"]
    evaluate(run.path, *words)
    command = ["torchrun", "--standalone", "--nproc_per_node", "2", "--no-python", sys.executable, "-c", "from ditscale.cli import main; main()",
               "evaluate", str(other.path), *words]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    one, two = read_lines(run.evals)[0], read_lines(other.evals)[0]
    assert two["score"] == pytest.approx(one["score"], rel=1e-10) and two["passport"] == one["passport"]
    assert [tried["scale"] for tried in two["guidance_search"]["tried"]] == [tried["scale"] for tried in one["guidance_search"]["tried"]]


def test_best_is_one_kind_whatever_was_chosen():
    stated = {"metric": "fid", "selected_on": '{"seed": 1}', "guidance_scale": 1.5, "guidance_interval": "all"}
    assert digest(stated) == digest({**stated, "guidance_scale": 2.0, "guidance_interval": "0.1..0.7"}) != digest({**stated, "selected_on": ""})
    assert differences(stated, {**stated, "guidance_scale": 2.0}) == []
    assert [name for name, _, _ in differences(stated, {**stated, "selected_on": "", "guidance_scale": 2.0})] == ["guidance_scale", "selected_on"]


def test_sample_takes_what_was_chosen(run, tmp_path):
    def sample(*arguments):
        return CliRunner().invoke(main, ["sample", str(run.path), *map(str, arguments), "--images", "8"])
    missing = sample(tmp_path / "a.npz", "guidance=best")
    assert missing.exit_code == 2 and "has searched its guidance" in missing.output and "--images 640" in missing.output
    evaluate(run.path, "guidance=best", f"guidance_search={json.dumps(SEARCH)}")
    assert sample(tmp_path / "a.npz", "guidance=best").exit_code == 0
    chosen = read_lines(run.evals)[0]["passport"]["guidance_scale"]
    assert json.loads((tmp_path / "a.npz.json").read_text())["guidance_scale"] == chosen
    assert "give one of them" in sample(tmp_path / "b.npz", "guidance=best", "guidance_scale=2").output
    assert "guidance=worst is unknown" in sample(tmp_path / "b.npz", "guidance=worst").output and not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("changes, words", [
    ({"guidance_scale": 1.5}, "contradicts evaluation.guidance best"), ({"guidance": None}, "has no effect without evaluation.guidance best"),
    ({"guidance_search": {"scales": [3, 1]}}, "lowest and the highest scale"), ({"guidance_search": {"samples": 65}}, "more than evaluation.samples 64"),
    ({"guidance_search": {"intervals": [[0.9, 0.1]]}}, "reversed or empty"), ({"guidance_search": {"points": 2}}, "points"),
    ({"guidance": "worst"}, "guidance")])
def test_contradictions_are_one_line(run, changes, words):
    with pytest.raises(UserError, match=words) as told:
        config_of(run, **changes)
    assert "\n" not in str(told.value)


def test_a_command_replaces_the_runs_own_way(run):
    stated = resolve({**run.read_record()["config"], "evaluation": {**run.read_record()["config"]["evaluation"], "guidance_scale": 1.5}}, "test")
    [best] = sweep(stated, ("guidance=best",))
    assert best.evaluation.guidance == "best" and best.evaluation.guidance_scale == 1
    [back] = sweep(best, ("guidance_scale=2",))
    assert back.evaluation.guidance is None and back.evaluation.guidance_scale == 2 and back.evaluation.guidance_search is None


def test_an_unknown_guidance_says_what_leaving_it_out_means(values):
    values["evaluation"]["guidance"] = "bset"
    with pytest.raises(UserError, match="'evaluation.guidance' is 'bset': should be 'best', or left out for the stated evaluation.guidance_scale"):
        resolve(values, "test")


def test_run_ids_of_stated_guidance_stay(values):
    config = resolve(values, "test")
    assert "guidance" not in json.dumps(config.science()) and resolve(config.model_dump(mode="json"), "test") == config
    values["evaluation"]["guidance"] = "best"
    assert resolve(values, "test").science_hash() != config.science_hash() and resolve(values, "test").recipe() == config.recipe()
