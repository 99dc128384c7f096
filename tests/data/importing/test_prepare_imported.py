"""What a model sees of imported latents: drawn or not, flipped or not, normalized once."""

import numpy as np
import pytest
import torch
from latent_files import make

from ditscale import randomness
from ditscale.config import DataConfig
from ditscale.data.importing import import_latents
from ditscale.data.loader import StreamLoader
from ditscale.data.order import indices_at
from ditscale.data.prepare import make_prepare
from ditscale.errors import UserError
from ditscale.section import validate

EDM2_MEAN, EDM2_STD = np.array([5.81, 3.25, 0.12, -2.15]), np.array([4.17, 4.62, 3.71, 3.28])


@pytest.fixture
def section(tmp_path):
    """``section(form, **options)``: (the section ``data`` of a config, what its tool's own reader gives)."""
    def of(form, **options):
        source, out = make(form, tmp_path), tmp_path / "out.beton"
        import_latents(source.path, out, say=lambda line: None, **source.options)
        values = {"name": "x", "path": str(out), "resolution": 4, "channels": 4, "classes": 5}
        return validate(DataConfig, values | options, "test"), source
    return of


def seen(data, backend="mmap"):
    """What a model sees over two epochs and more: dataset indices, images, what was drawn."""
    prepare = make_prepare(data)
    streams = {"flip": randomness.Uniform(), "latent draw": randomness.Normal((4, 4, 4)), **prepare.streams}
    parts = []
    with StreamLoader(data.path, seed=3, global_batch=16, micro_batch=4, start_images=0, end_images=96, backend=backend,
                      pick=prepare.pick) as loader:
        for raw, labels, positions in loader:
            draws = randomness.draw(3, positions, streams)
            parts.append((torch.from_numpy(indices_at(positions.numpy(), 45, 3)), prepare(raw, draws), labels,
                          draws["flip"][:, 0] < 0.5, draws["latent draw"]))
    indices, images, labels, flips, noise = (torch.cat(part) for part in zip(*parts))
    return indices.numpy(), images.numpy(), labels.numpy(), flips.numpy(), noise.numpy(), prepare.streams


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2**-9, atol=2**-9)


def column(values):
    return np.reshape(values, (-1, 1, 1))


def test_edm2_is_drawn_and_normalized_as_by_its_own_encoder(section, backend):
    data, source = section("edm2")
    indices, images, labels, _, noise, streams = seen(data, backend)
    mean, std = source.expected[indices, 0].swapaxes(0, 1)
    scale = 0.5 / EDM2_STD                                                     # encode_latents: x * scale + bias
    close(images, (mean + std * noise) * column(scale) + column(0 - EDM2_MEAN * scale))
    assert (labels == source.labels[indices]).all() and set(streams) == {"latent draw"}


def test_repa_is_drawn_and_scaled(section):
    data, source = section("repa")
    indices, images, _, _, noise, _ = seen(data)
    mean, std = source.expected[indices, 0].swapaxes(0, 1)
    close(images, (mean + std * noise) * 0.18215)


def test_fast_dits_samples_are_taken_as_they_are(section, backend):
    data, source = section("fast-dit")
    indices, images, labels, _, _, streams = seen(data, backend)
    assert not streams and (images == source.expected[indices, 0, 0].astype(np.float16)).all()      # scaled already: not once more
    assert (labels == source.labels[indices]).all()
    changed = data.model_copy(update={"latent_scale": (0.3643,), "latent_shift": (0.1,)})           # of the encoder's own latents
    close(seen(changed)[1], (source.expected[indices, 0, 0] / 0.18215 - 0.1) * 0.3643)


def test_lightningdits_stored_flips_are_picked(section, backend):
    data, source = section("lightningdit", flip=True)
    indices, images, _, flips, _, streams = seen(data, backend)
    samples = source.expected[:, 0, 0]
    mean, std = samples.mean((0, 2, 3)), samples.std((0, 2, 3))
    close(images, (source.expected[indices, flips.astype(int), 0] - column(mean)) / column(std))
    assert not streams and 20 < flips.sum() < 76


@pytest.mark.parametrize("form, why", [("edm2", "no flips are stored"), ("fast-dit", "some images were mirrored before they were encoded")])
def test_no_flip_where_none_is_stored(form, why, section):
    data, _ = section(form, flip=True)
    with pytest.raises(UserError, match=rf"data.flip: .*out.beton holds each image once \({why}\); data.flip: false leaves it so, and "):
        make_prepare(data)


def test_latents_are_mirrored_where_that_is_asked_for(section, backend):
    data, source = section("edm2", flip="mirror", latent_scale=1.0, latent_shift=0.0)
    indices, images, _, flips, noise, streams = seen(data, backend)
    mean, std = source.expected[indices, 0].swapaxes(0, 1)
    mean, std = (np.where(flips[:, None, None, None], part[..., ::-1], part) for part in (mean, std))
    close(images, mean + std * noise)
    assert set(streams) == {"latent draw", "flip"}


def test_mirror_is_for_latents_without_flips(section, pixels, latents):
    data, _ = section("lightningdit", flip="mirror")
    with pytest.raises(UserError, match="holds latents of the mirrored images; data.flip: true takes those"):
        make_prepare(data)
    with pytest.raises(UserError, match="data.flip: mirror is for latent files; .* holds pixels"):
        make_prepare(data.model_copy(update={"path": str(pixels), "resolution": 32, "channels": 3}))
    with pytest.raises(UserError, match="holds latents of the mirrored images"):
        make_prepare(data.model_copy(update={"path": str(latents)}))


def test_a_manifest_of_another_file_is_refused(section, tmp_path):
    data, _ = section("fast-dit")
    text = (tmp_path / "out.json").read_text()
    for before, after in (('"has_std": false', '"has_std": true'), ('"flips": "random"', '"flips": "stored"')):
        assert before in text
        (tmp_path / "out.json").write_text(text.replace(before, after))
        with pytest.raises(UserError, match=r"holds moments of shape \(1, 1, 4, 4, 4\), which its manifest does not state"):
            make_prepare(data)
