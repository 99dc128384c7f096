"""Images out of weights: each a function of (weights, settings, seed, i), in the right class, decoded by the right VAE."""

import itertools
import math

import numpy as np
import pytest
import torch

from ditscale import randomness
from ditscale.config import SamplingConfig
from ditscale.data.beton import write_beton
from ditscale.data.vae import load_vae
from ditscale.device import reproducible
from ditscale.diffusion.flow import Flow
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample
from ditscale.errors import UserError
from ditscale.evaluation.sampling.maker import ImageMaker, sample_parts, to_uint8
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.objectives.from_config import build_model
from ditscale.training.checkpoint.weights import rebuild, run_config


@pytest.fixture
def maker_of(hand_run):
    """``maker_of({setting: value}, {config key: value})``: a maker of a run's images, its weights loaded."""
    numbers = itertools.count()

    def make(settings={}, changes={}):
        run = hand_run(changes, name=f"run-{next(numbers)}")
        config = run_config(run)
        own = {name: getattr(config.evaluation, name) for name in SamplingConfig.model_fields}
        maker = ImageMaker(config, SamplingConfig(**{**own, **settings}), "cpu")
        maker.load(choose_weights(run, None, maker.settings.average)[0])
        return maker
    return make


def by_hand(maker, count, seed):
    """The model's output by Heun with plain calls, in [-1, 1]: no maker, and all in one batch."""
    model = build_model(maker.config)
    model.load_state_dict(maker.guided.model.state_dict())
    data, positions = maker.config.data, torch.arange(count)
    shape = (data.channels, data.resolution, data.resolution)
    noise = randomness.draw(seed, positions, {"sampling noise": randomness.Normal(shape)})["sampling noise"]
    guided = Guided(model.eval(), maker.settings.guidance_scale, data.classes)
    with reproducible():                                                       # two threads would add in another order
        return sample(guided, Flow(), noise, positions % data.classes, sampler="heun", steps=maker.settings.sampling_steps)


def test_pixels_are_the_samplers(pixel_values, maker_of):
    maker = maker_of()
    images, labels = maker.make(torch.arange(12), 4)
    assert torch.equal(images, to_uint8(by_hand(maker, 12, 4))) and images.shape == (12, 3, 32, 32)
    assert images.dtype == torch.uint8 and labels.tolist() == [i % 5 for i in range(12)]
    assert len({tuple(image.flatten().tolist()) for image in images}) == 12 and maker.forwards == 2 * 5
    assert not torch.equal(maker.make(torch.arange(12), 5)[0], images)


def test_image_i_is_the_same_in_any_batch_and_order(pixel_values, maker_of):
    maker = maker_of()
    images, _ = maker.make(torch.arange(24), 4)
    order = torch.randperm(24)
    parts = list(sample_parts(maker, order, 4))
    assert [len(positions) for positions, _, _ in parts] == [8, 8, 8]
    assert torch.equal(torch.cat([positions for positions, _, _ in parts]), order)
    assert torch.equal(torch.cat([labels for _, _, labels in parts]), order % 5)
    different = (torch.cat([made for _, made, _ in parts]).int() - images[order].int()).abs()
    assert different.max() <= 1 and (different > 0).float().mean() < 0.01         # another batch shape may round another way


def test_image_i_is_the_same_in_any_number_of_images_and_threads(pixel_values, maker_of):
    """Bit for bit: MKL's product for the 6 rows of 3 guided images adds in another order than for 16, and on two threads again."""
    maker, seen = maker_of(), {}
    threads = torch.get_num_threads()
    for count in (1, 3, 8, 27, 32):
        for used in (1, 2):
            torch.set_num_threads(used)
            try:
                seen[count, used] = torch.cat([made for _, made, _ in sample_parts(maker, torch.arange(count), 4)])
                assert torch.get_num_threads() == used
            finally:
                torch.set_num_threads(threads)
    assert all(len(made) == count and torch.equal(made, seen[32, 1][:count]) for (count, _), made in seen.items())


def test_only_images_of_the_set_count_as_broken(pixel_values, maker_of):
    maker = maker_of()
    maker.guided.model.y_embedder.embedding_table.weight[2] = math.nan
    images, labels = maker.make(torch.arange(24, 27), 4)                       # computed with 27 to 31, of which 27 is broken too
    assert len(images) == 3 and labels.tolist() == [4, 0, 1] and maker.nan_images == []
    maker.make(torch.arange(24, 28), 4)
    assert maker.nan_images == [27]


def test_labels(pixel_values, maker_of):
    positions = torch.arange(5000)
    drawn = maker_of({"labels": "random"}).labels(positions, 3)
    assert torch.equal(drawn, maker_of({"labels": "random"}, {"seed": 7}).labels(positions, 3))   # of the sampling seed alone
    assert not torch.equal(drawn, maker_of({"labels": "random"}).labels(positions, 4))
    counts = torch.bincount(drawn, minlength=5)
    assert len(counts) == 5 and ((counts - 1000).abs() < 4 * math.sqrt(800)).all()
    assert torch.equal(maker_of({"labels": "random"}).labels(positions[70:80], 3), drawn[70:80])
    assert torch.equal(maker_of({"labels": "balanced"}).labels(positions, 3), positions % 5)
    one = maker_of({"labels": 2})
    assert one.labels(positions, 3).unique().tolist() == [2] and one.passport()["labels"] == "class 2"
    with pytest.raises(UserError, match="labels 5 is not a class of the run; give 0 to 4"):
        maker_of({"labels": 5})


def test_latents_are_decoded_as_by_hand(latent_values, vae_folders, maker_of):
    import diffusers

    maker = maker_of()
    images, _ = maker.make(torch.arange(20), 4)                                # more than are decoded at once
    model = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]).eval()
    with torch.inference_mode():
        decoded = model.decode(by_hand(maker, 20, 4) / model.config.scaling_factor + model.config.shift_factor).sample
    assert images.shape == (20, 3, 32, 32) and (images.int() - to_uint8(decoded).int()).abs().max() <= 1
    kind, weights = maker.passport()["decoder"].split()
    assert kind == "AutoencoderKL" and load_vae(vae_folders["kl"], "cpu").description["weights_sha256"].startswith(weights)
    changed = maker_of({}, {"data.latent_scale": [2.0, 2.0, 2.0, 0.5], "data.latent_shift": 0.1})
    with torch.inference_mode():
        latents = by_hand(changed, 6, 4) / torch.tensor([2.0, 2.0, 2.0, 0.5]).reshape(4, 1, 1) + 0.1
        decoded = model.decode(latents).sample
    assert (changed.make(torch.arange(6), 4)[0].int() - to_uint8(decoded).int()).abs().max() <= 1


def test_only_the_vae_that_made_the_latents_will_do(latent_values, vae_folders, latents, maker_of, tmp_path):
    with pytest.raises(UserError, match=f"{latents} holds latents; give vae=FOLDER, the AutoencoderKL"):
        maker_of({"vae": None})
    with pytest.raises(UserError, match=r"has weights with sha256 \w{12}, but .* was encoded with sha256 \w{12}"):
        maker_of({"vae": vae_folders["tiny"]})
    with pytest.raises(UserError, match="data.path of the run: .*gone.beton: no such file.*only .*gone.json"):
        maker_of({}, {"data.path": str(tmp_path / "gone.beton")})
    (tmp_path / "alone.json").write_text(latents.with_suffix(".json").read_text())
    assert maker_of({}, {"data.path": str(tmp_path / "alone.beton")}).decoder  # the manifest is enough


def test_pixels_take_no_vae_and_need_no_manifest(pixel_values, pixels, vae_folders, maker_of, tmp_path):
    with pytest.raises(UserError, match="vae is for latents, but .* holds pixels"):
        maker_of({"vae": vae_folders["kl"]})
    write_beton(tmp_path / "bare.beton", {"image": np.zeros((4, 3, 32, 32), np.uint8), "label": np.arange(4)})
    assert maker_of({}, {"data.path": str(tmp_path / "bare.beton")}).decoder is None


def test_nan_is_counted(pixel_values, maker_of):
    maker = maker_of()
    weights = maker.guided.model.state_dict()
    name = next(name for name in weights if "label" in name or "y_embed" in name)
    table = weights[name].clone()
    table[3] = math.nan                                                        # one class is lost
    maker.load({**weights, name: table})
    images, labels = maker.make(torch.arange(12), 4)
    assert maker.nan_images == [3, 8] and (images[labels == 3] == 0).all() and (images[labels != 3] > 0).any()
    maker.load(weights)
    assert maker.nan_images == []


def test_quantisation_rule():
    values = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0, math.nan, math.inf])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 0, 255]
    assert to_uint8(values, "floor").tolist() == [0, 0, 127, 255, 255, 0, 255]
    levels = torch.arange(256) / 127.5 - 1                                     # each grey level itself stays under both
    assert to_uint8(levels).tolist() == list(range(256))
    assert to_uint8(levels + 0.6 / 127.5).tolist() == [*range(1, 256), 255]    # the nearest level, or the one below
    assert to_uint8(levels + 0.6 / 127.5, "floor").tolist() == list(range(256))


def test_rounding_is_an_option_and_in_the_passport(pixel_values, maker_of):
    near, floor = maker_of(), maker_of({"rounding": "floor"})
    assert near.passport()["quantise"] == "floor(clamp(127.5 x + 128, 0, 255))"
    assert floor.passport()["quantise"] == "floor(clamp(127.5 (x + 1), 0, 255))"
    higher = near.make(torch.arange(6), 4)[0].int() - floor.make(torch.arange(6), 4)[0].int()
    assert set(higher.unique().tolist()) == {0, 1}


AVERAGES = ("ema", "ema-decay-0.99", "ema-power-0.05", "ema-power-0.1", "masters")
TRACKS = {"train.ema_lengths": [0.05, 0.1], "train.ema_decays": [0.99]}


def test_averages_by_name(hand_run):
    run = hand_run(TRACKS, checkpoints=range(64, 641, 64), averages=AVERAGES)
    firsts = {name: choose_weights(run, None, name)[0]["x_embedder.proj.weight"].flatten()[0].item() for name in AVERAGES}
    assert len(set(firsts.values())) == len(AVERAGES)
    _, origin = choose_weights(run, 320, "masters")
    assert origin["checkpoint"] == "images-000000000320" and origin["weights_sha256"] != \
        choose_weights(run, 640, "masters")[1]["weights_sha256"]
    rebuilt, _ = choose_weights(run, 640, "length-0.07")
    expected, _ = rebuild(run, 0.07, 640)
    assert rebuilt.keys() == expected.keys() and all(torch.equal(rebuilt[name], expected[name]) for name in expected)


@pytest.mark.parametrize("average, words", [
    ("ema-decay-0.9", "it has ema, ema-decay-0.99, ema-power-0.05, ema-power-0.1, masters, and length-0.07"),
    ("length-long", "length- must be followed by a number"),
    ("length-3", "has no profile"),
])
def test_unknown_averages_are_named(hand_run, average, words):
    with pytest.raises(UserError, match=words):
        choose_weights(hand_run(TRACKS, averages=AVERAGES), None, average)


def test_weights_of_another_model_are_refused(pixel_values, maker_of):
    maker = maker_of()
    with pytest.raises(UserError, match="not those of DiT-atto/8 as baseline: .* more are missing"):
        maker.load({"x_embedder.proj.weight": torch.zeros(1)})
