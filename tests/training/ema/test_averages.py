"""Several averages in one run, and the average of any length rebuilt from two tracks: EDM2's power functions."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.checkpoint import list_checkpoints, load_ema
from ditscale.training.checkpoint.weights import ENOUGH, rebuild
from ditscale.training.ema.profiles import LONGEST, Profile, combine, gamma_of
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

TRACKS = {"train.precision": "fp32", "train.ema_decays": [0.5], "train.ema_lengths": [0.05, 0.1],
          "train.checkpoint_every_images": 64, "train.images": 20 * 64}


def relative_length(gamma):
    """The standard deviation of t^gamma's profile over the training time, by numerical integration."""
    t = (np.arange(200_000) + 0.5) / 200_000
    weight = t**gamma / (t**gamma).sum()
    mean = (t * weight).sum()
    return np.sqrt((weight * (t - mean) ** 2).sum())


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2, 0.25])
def test_the_exponent_of_a_length(length):
    assert relative_length(gamma_of(length)) == pytest.approx(length, rel=1e-4)


def test_known_exponents():
    """EDM2, Sec. 3.1: gamma 6.94 and 16.97 are lengths of 0.10 and 0.05."""
    assert (gamma_of(0.10), gamma_of(0.05)) == pytest.approx((6.94, 16.97), abs=0.005)
    assert gamma_of(LONGEST - 1e-9) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("first, second", [((1.0, 3.0), (1.0, 7.0)), ((0.4, 6.94), (1.0, 16.97)), ((1.0, 2.0), (0.3, 5.0))])
def test_products_of_profiles(first, second):
    first, second, t = Profile(*first), Profile(*second), (np.arange(400_000) + 0.5) / 400_000
    values = [np.where(t < p.images, (p.gamma + 1) * t**p.gamma / p.images ** (p.gamma + 1), 0.0) for p in (first, second)]
    assert first.dot(second) == pytest.approx((values[0] * values[1]).mean(), rel=1e-4)


def test_a_snapshot_is_rebuilt_from_itself():
    snapshots = [Profile(images, gamma) for images in (100, 200, 300) for gamma in (6.94, 16.97)]
    weights, missed = combine(snapshots, snapshots[3])
    assert missed < 1e-6 and weights == pytest.approx([0, 0, 0, 1, 0, 0], abs=1e-5)


@pytest.mark.parametrize("lengths, at", [((0.05, 0.1), (1, 2, 3, 4)), ((0.05, 0.1), (5,)), ((0.05, 0.1, 0.2), (3, 5, 9, 10)),
                                         ((0.1,), (1, 2))])
@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_coefficients_add_up_to_one(lengths, at, length):
    """So that snapshots of equal weights give those weights."""
    snapshots = [Profile(images, gamma_of(known)) for images in at for known in lengths]
    weights, _ = combine(snapshots, Profile(at[-1], gamma_of(length)))
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("length, error", [(0.06, 2e-3), (0.07, 2e-3), (0.09, 1e-3), (0.12, 2e-3), (0.15, 5e-3)])
def test_rebuilt_is_as_good_as_tracked_at_every_step(length, error):
    """200 steps of a random walk away from weights of 2, four snapshots of two tracks. Coefficients that are not divided by their
    sum scale everything: errors of 0.5 % (length 0.09) to 3.7 % (0.15)."""
    steps, lengths = 200, (0.05, 0.1)
    walk = np.random.default_rng(0).normal(0, 0.03, (steps + 1, 500)).cumsum(0) + 2.0
    tracks = {known: [walk[0]] for known in (*lengths, length)}
    for step in range(1, steps + 1):
        for known, values in tracks.items():
            decay = (1 - 1 / step) ** (gamma_of(known) + 1)
            values.append(decay * values[-1] + (1 - decay) * walk[step])
    taken = [(at, known) for at in range(50, steps + 1, 50) for known in lengths]
    weights, _ = combine([Profile(at, gamma_of(known)) for at, known in taken], Profile(steps, gamma_of(length)))
    rebuilt, truth = sum(w * tracks[known][at] for w, (at, known) in zip(weights, taken)), tracks[length][steps]
    assert np.linalg.norm(rebuilt - truth) < error * np.linalg.norm(truth)


def test_four_snapshots_give_lengths_a_little_beyond_their_tracks():
    """0.15 from tracks of 0.05 and 0.1: its profile has an error of 11 %, the average itself one of 0.1 % (the test above)."""
    snapshots = [Profile(at, gamma_of(known)) for at in (1, 2, 3, 4) for known in (0.05, 0.1)]
    assert combine(snapshots, Profile(4, gamma_of(0.15)))[1] < ENOUGH < combine(snapshots, Profile(4, gamma_of(0.2)))[1]


TRAINED = {}                                                                   # the run that most tests read, made by the first


@pytest.fixture
def tracked(make_run, world):
    if not TRAINED:
        config, run = make_run("tracked", TRACKS)
        assert train(config, run, world)
        TRAINED["run"] = run
    return TRAINED["run"]


def test_all_averages_follow_the_same_weights(tracked):
    """Two neighbors of an average give the weights between them; every average of the run must give the same."""
    steps = list(range(64, 20 * 64 + 1, 64))
    assert len(list_checkpoints(tracked)) == len(steps)
    for name, decay in (("ema-power-0.1", lambda before, after: (before / after) ** (gamma_of(0.1) + 1)),
                        ("ema-decay-0.5", lambda before, after: 0.5)):
        averages = [load_ema(path, name) for path in list_checkpoints(tracked)]
        for (first, second), after in zip(zip(averages[:-2], averages[1:-1]), steps[1:]):
            share = decay(after - 64, after)
            weights = {key: (second[key] - share * first[key]) / (1 - share) for key in first}
            other = load_ema(list_checkpoints(tracked)[steps.index(after)], "ema")
            before = load_ema(list_checkpoints(tracked)[steps.index(after) - 1], "ema")
            expected = {key: (other[key] - 0.9 * before[key]) / 0.1 for key in first}
            for key in first:
                assert torch.allclose(weights[key], expected[key], atol=2e-5), (name, after, key)


def test_any_length_is_rebuilt_after_training(tracked, make_run, world):
    """Against a run that kept the wanted length itself; nothing else near it is as close."""
    config, other = make_run("wanted", {**TRACKS, "train.ema_lengths": [0.07], "train.ema_decays": []})
    train(config, other, world)
    wanted = load_ema(list_checkpoints(other)[-1], "ema-power-0.07")
    found, missed = rebuild(tracked, 0.07, 20 * 64)
    near = {name: load_ema(list_checkpoints(tracked)[-1], name) for name in ("ema", "ema-power-0.05", "ema-power-0.1")}
    assert missed < 0.02
    assert distance(found, wanted) < 0.2 * min(distance(weights, wanted) for weights in near.values())


def distance(first, second):
    return sum((first[name] - second[name]).square().sum().item() for name in first) ** 0.5


def test_at_an_earlier_point_too(tracked):
    found, missed = rebuild(tracked, 0.05, 10 * 64)
    saved = load_ema(list_checkpoints(tracked)[9], "ema-power-0.05")
    assert missed < 1e-6 and distance(found, saved) < 1e-4


@pytest.mark.parametrize("length, words", [(0.3, "give a length above 0 and below 0.289"), (0.001, "cannot be rebuilt: its profile")])
def test_lengths_that_cannot_be_had_are_refused(tracked, length, words):
    with pytest.raises(UserError, match=words):
        rebuild(tracked, length, 20 * 64)


def ditscale(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_export_and_ema_on_the_command_line(tracked, tmp_path):
    done = ditscale("export", tracked.path, tmp_path / "last.safetensors", "--average", "masters")
    assert done.exit_code == 0 and "parameters, masters of images-000000001280" in done.output
    exported, saved = load_file(tmp_path / "last.safetensors"), load_file(list_checkpoints(tracked)[-1] / "masters.safetensors")
    assert all(torch.equal(exported[name], saved[name]) for name in saved)
    done = ditscale("ema", tracked.path, tmp_path / "ema.safetensors", "--length", "0.07", "--images", 10 * 64)
    assert done.exit_code == 0 and "length 0.07 at 640 images" in done.output
    converted = ditscale("convert", tmp_path / "ema.safetensors", tmp_path / "released.pt")
    assert converted.exit_code == 0, converted.output


def test_a_variants_training_only_parts_are_left_out(make_run, world, tmp_path):
    config, run = make_run("disc", {"objective": {"name": "discriminative"}, "train.images": 128})
    train(config, run, world)
    done = ditscale("export", run.path, tmp_path / "out.safetensors")
    assert done.exit_code == 0, done.output
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        names, header = set(file.keys()), file.metadata()
    everything = set(load_ema(list_checkpoints(run)[-1]))
    left_out = set(everything - names)
    assert left_out and {name.split(".")[0] for name in left_out} == {"raw_embed", "head"}
    assert header["average"] == "ema" and '"discriminative"' in header["run"]


@pytest.mark.parametrize("arguments, words", [
    (["export", "{run}", "{out}", "--images", "65"], "no checkpoint at 65 images; it has 64, 128"),
    (["export", "{run}", "{out}", "--average", "ema-decay-0.7"], "has no ema-decay-0.7; it has ema, ema-decay-0.5"),
    (["export", "{run}/nowhere", "{out}"], "/nowhere: no such run"),
    (["export", "{run}", "{run}/run.json"], "already exists; give another name"),
    (["ema", "{run}", "{out}", "--length", "0"], "--length 0.0 has no profile"),
])
def test_wrong_input_is_named(tracked, tmp_path, arguments, words):
    places = {"run": tracked.path, "out": tmp_path / "out.safetensors"}
    done = ditscale(*(argument.format(**places) for argument in arguments))
    assert done.exit_code == 2 and words in done.output
    assert not (tmp_path / "out.safetensors").exists()


def test_a_run_without_tracks_says_what_would_work(make_run, world, tmp_path):
    config, run = make_run(changes={"train.images": 64})
    train(config, run, world)
    done = ditscale("ema", run.path, tmp_path / "out.safetensors", "--length", "0.07")
    assert done.exit_code == 2 and "train with train.ema_lengths=[0.05, 0.1]" in done.output
    assert isinstance(run, RunDir)


def test_tracks_go_on_bit_for_bit(make_run, world):
    config, whole = make_run("whole", {**TRACKS, "train.images": 640})
    train(config, whole, world)
    config, parts = make_run("parts", {**TRACKS, "train.images": 640})
    calls = iter(range(1, 1000))
    assert not train(config, parts, world, stop=lambda: next(calls) >= 4)
    assert train(config, parts, world)
    for path in list_checkpoints(whole)[-1].glob("ema*.safetensors"):
        assert path.read_bytes() == (list_checkpoints(parts)[-1] / path.name).read_bytes()
