"""From stored bytes to model inputs: by hand, for any ranks and after any stop, and refused where file and config disagree."""

import json
import shutil

import numpy as np
import pytest
import torch

from ditscale import randomness
from ditscale.config import DataConfig
from ditscale.data.beton import BetonFile, write_beton
from ditscale.data.latents import from_bits
from ditscale.data.loader import StreamLoader
from ditscale.data.order import indices_at
from ditscale.data.prepare import make_prepare
from ditscale.errors import UserError
from ditscale.section import validate


def data(path, **options):
    """A section ``data`` that fits the file of the fixtures."""
    shape = BetonFile(path).fields
    latent = "moments" in shape
    values = {"name": "noise", "path": str(path), "resolution": 4 if latent else 32, "channels": 4 if latent else 3, "classes": 5}
    return validate(DataConfig, values | options, "test")


def seen(section, *, rank=0, world_size=1, micro_batch=4, start=0, end=96, seed=3, backend="mmap"):
    """What a model on one rank sees: positions, images, noise."""
    prepare = make_prepare(section)
    streams = {"noise": randomness.Normal((2,)), **prepare.streams}
    parts = []
    with StreamLoader(section.path, seed=seed, global_batch=16, micro_batch=micro_batch, rank=rank, world_size=world_size,
                     start_images=start, end_images=end, backend=backend, pick=prepare.pick) as loader:
        for raw, _, positions in loader:
            draws = randomness.draw(seed, positions, streams)
            parts.append((positions, prepare(raw, draws), draws["noise"]))
    return [torch.cat(part) for part in zip(*parts)]


def test_pixels_by_hand(pixels):
    positions, images, _ = seen(data(pixels))
    stored = torch.from_numpy(BetonFile(pixels).read("image", indices_at(positions.numpy(), 45, seed=3)))
    assert torch.equal(images, stored.float() / 127.5 - 1) and images.dtype == torch.float32
    positions, flipped, _ = seen(data(pixels, flip=True))
    mirrored = randomness.draw(3, positions, {"flip": randomness.Uniform()})["flip"][:, 0] < 0.5
    assert 30 < mirrored.sum() < 66                                            # of 96
    assert torch.equal(flipped[mirrored], images.flip(-1)[mirrored]) and torch.equal(flipped[~mirrored], images[~mirrored])


@pytest.mark.parametrize("options, scale, shift", [
    ({}, 0.18215, 0.25), ({"latent_scale": 2}, 2.0, 0.25), ({"latent_scale": [1.0, 2.0, 3.0, 4.0], "latent_shift": 0.0},
                                                            [1.0, 2.0, 3.0, 4.0], 0.0)])
def test_latents_by_hand(latents, options, scale, shift, backend):
    positions, drawn, _ = seen(data(latents, flip=True, **options), backend=backend)
    moments = from_bits(torch.from_numpy(BetonFile(latents).read("moments", indices_at(positions.numpy(), 45, seed=3))), "fp16")
    draws = randomness.draw(3, positions, {"flip": randomness.Uniform(), "latent draw": randomness.Normal((4, 4, 4))})
    for image, both, flip, noise in zip(drawn, moments, draws["flip"], draws["latent draw"]):
        mean, std = both[1 if flip < 0.5 else 0]
        expected = (mean + std * noise - shift) * torch.tensor(scale).reshape(-1, 1, 1)
        assert torch.equal(image, expected)
    _, unflipped, _ = seen(data(latents, **options))
    same = (unflipped == drawn).flatten(1).all(1)
    assert torch.equal(same, draws["flip"][:, 0] >= 0.5)


def test_an_encoder_without_std_is_not_drawn(latents, tmp_path):
    for name in ("train.beton", "train.json"):
        shutil.copy(latents.parent / name, tmp_path)
    manifest = json.loads((tmp_path / "train.json").read_text())
    manifest["encoder"]["has_std"] = False
    (tmp_path / "train.json").write_text(json.dumps(manifest))
    section = data(tmp_path / "train.beton", latent_scale=1.0, latent_shift=0.0)
    assert make_prepare(section).streams == {}
    positions, images, _ = seen(section)
    moments = from_bits(torch.from_numpy(BetonFile(latents).read("moments", indices_at(positions.numpy(), 45, seed=3))), "fp16")
    assert torch.equal(images, moments[:, 0, 0])


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_ranks_and_stops_see_one_sequence(kind, request, backend):
    section = data(request.getfixturevalue(kind), flip=True)
    whole = seen(section, backend=backend)
    assert whole[0].tolist() == list(range(96))
    for world_size in (2, 4):
        parts = [seen(section, rank=rank, world_size=world_size, micro_batch=2, backend=backend) for rank in range(world_size)]
        for one, shares in zip(whole, zip(*parts)):
            steps = torch.cat([share.unflatten(0, (6, -1)) for share in shares], dim=1)
            assert torch.equal(steps.flatten(0, 1), one)
    for stop in (5, 77):                                                       # any image count, in an epoch of 45
        for one, rest in zip(whole, seen(section, start=stop, end=stop + 16, backend=backend)):
            assert torch.equal(one[stop:stop + 16], rest)


def test_nothing_is_written_beside_the_data(latents, backend):
    def listing():
        return {path.name: path.stat().st_mtime_ns for path in [latents.parent, *latents.parent.iterdir()]}

    before = listing()
    seen(data(latents, flip=True), backend=backend)
    assert listing() == before


def refused(section) -> str:
    with pytest.raises(UserError) as error:
        make_prepare(section)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_fit_is_named(pixels, latents, tmp_path):
    assert "holds latents of shape (4, 4, 4), but data.channels and data.resolution make (3, 32, 32)" in \
        refused(data(latents, channels=3, resolution=32))
    assert "holds pixels of shape (3, 32, 32), but" in refused(data(pixels, channels=4))
    assert "data.latent_scale is for latent files" in refused(data(pixels, latent_scale=0.18215))
    assert "data.latent_shift is for latent files" in refused(data(pixels, latent_shift=0.0))
    assert "has labels 0 to 4, but data.classes is 4" in refused(data(pixels, classes=4))
    shutil.copy(latents, tmp_path / "x.beton")
    assert "x.json: cannot be read" in refused(data(tmp_path / "x.beton"))
    shutil.copy(pixels.with_suffix(".json"), tmp_path / "x.json")
    assert "does not say which encoder made it" in refused(data(tmp_path / "x.beton"))
    write_beton(tmp_path / "y.beton", {"moments": np.zeros((3, 2, 2, 4, 4, 4), np.float32), "label": np.arange(3)})
    assert "needs fields 'image'" in refused(data(tmp_path / "y.beton"))


@pytest.mark.parametrize("options, words", [
    ({"latent_scale": [1.0, 2.0]}, "data.latent_scale has 2 numbers for data.channels 4; give one number, or one per channel"),
    ({"latent_scale": 0.0}, "data.latent_scale 0.0 must be above 0"),
    ({"latent_shift": "much"}, "'latent_shift' is 'much'"),
    ({"flip": 1}, "'flip' is 1"),
])
def test_options_are_checked(latents, options, words):
    with pytest.raises(UserError) as error:
        data(latents, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
