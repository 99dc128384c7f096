"""Images of models of imported latents: un-normalized by the peer's rule, and in the range of the pixels that its encoder took."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from ditscale.config import SamplingConfig, resolve
from ditscale.data.importing import import_latents
from ditscale.data.inspect import save_grid
from ditscale.data.vae import load_vae
from ditscale.errors import UserError
from ditscale.evaluation.sampling.decoder import make_decoder
from ditscale.evaluation.sampling.maker import ImageMaker, to_uint8
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.studies.plan.encoding import encoding_lines
from ditscale.training.checkpoint.weights import run_config

EDM2_MEAN, EDM2_STD = ([5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28])


def edm2s(vae, x):
    """Its StabilityVAEEncoder.decode, before the clamp: final latents to pixels in [0, 1]."""
    scale = np.float32(0.5) / np.float32(EDM2_STD)
    bias = np.float32(0) - np.float32(EDM2_MEAN) * scale
    return vae.decode((x - torch.tensor(bias).reshape(1, -1, 1, 1)) / torch.tensor(scale).reshape(1, -1, 1, 1)).sample


def in_bytes(images):
    """Of pixels in [0, 1]."""
    return (images * 255 + 0.5).clamp(0, 255).to(torch.uint8)


RULES = {                                                                      # final latents to pixels in [0, 1]
    "edm2": edm2s,
    "repa": lambda vae, x: (vae.decode(x / 0.18215).sample + 1) / 2,
    "fast-dit": lambda vae, x: (vae.decode(x / 0.18215).sample + 1) / 2}


@pytest.fixture
def imported(latent_files, latent_values, tmp_path):
    """``imported(form, **options)``: the path of the import, which ``latent_values`` now name."""
    def make(form, **options):
        (tmp_path / "source").mkdir()
        source, out = latent_files.make(form, tmp_path / "source"), tmp_path / "out.beton"
        import_latents(source.path, out, say=lambda line: None, **source.options | options)
        latent_values["data"]["path"] = str(out)
        return out
    return make


@pytest.mark.parametrize("form", RULES)
def test_decoded_by_the_peers_rule(form, imported, latent_values, vae_folders):
    imported(form)
    decoder = make_decoder(resolve(latent_values, "test").data, vae_folders["kl"], "cpu")
    vae, latents = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]).eval(), torch.randn(20, 4, 4, 4)
    with torch.inference_mode():
        wanted = RULES[form](vae, latents)
    assert torch.allclose((decoder(latents) + 1) / 2, wanted, atol=1e-4) and wanted.std() > 0.01


@pytest.mark.parametrize("form", ["edm2", "repa"])
def test_samples_come_out_in_the_right_range(form, imported, latent_values, hand_run, vae_folders, monkeypatch):
    """The whole way from noise to bytes, with weights of a run."""
    imported(form)
    run = hand_run()
    config = run_config(run)
    own = {name: getattr(config.evaluation, name) for name in SamplingConfig.model_fields}
    maker = ImageMaker(config, SamplingConfig(**own), "cpu")
    maker.load(choose_weights(run, None, maker.settings.average)[0])
    kept, decode = [], maker.decoder.__call__

    class Kept:
        name, channels = maker.decoder.name, maker.decoder.channels

        def __call__(self, latents):
            kept.append(latents)
            return decode(latents)

    monkeypatch.setattr(maker, "decoder", Kept())
    images, _ = maker.make(torch.arange(6), 4)
    vae = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]).eval()
    with torch.inference_mode():
        wanted = in_bytes(RULES[form](vae, torch.cat(kept).float()[:6]))
    assert images.shape == (6, 3, 32, 32) and (images.int() - wanted.int()).abs().max() <= 1
    assert torch.equal(to_uint8(torch.tensor([[[[0.0]]]])), torch.tensor([[[[128]]]], dtype=torch.uint8))


def test_the_recorded_autoencoder_alone_will_do(imported, latent_values, vae_folders, tmp_path):
    out = imported("edm2", load_vae=lambda: load_vae(vae_folders["kl"], "cpu"))
    data = resolve(latent_values, "test").data
    assert make_decoder(data, vae_folders["kl"], "cpu")
    with pytest.raises(UserError, match=r"has weights with sha256 \w{12}, but .* was encoded with sha256 \w{12}"):
        make_decoder(data, vae_folders["tiny"], "cpu")
    with pytest.raises(UserError, match="its weights are not those that made"):
        save_grid(out, tmp_path / "grid.png", load_vae(vae_folders["tiny"], "cpu"))


def test_where_none_is_recorded_the_channels_must_fit(imported, latent_values, vae_folders, tmp_path):
    imported("edm2")
    data = resolve(latent_values, "test").data
    with pytest.raises(UserError, match=r"give vae=FOLDER, the autoencoder \(not recorded\) that made them \(stabilityai/sd-vae-ft-mse unless"):
        make_decoder(data, None, "cpu")
    diffusers.AutoencoderKL(latent_channels=8, block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match=r"has latents with 8 channels, but .*out.beton has 4; give the one that made them"):
        make_decoder(data, str(tmp_path / "wide"), "cpu")


@pytest.mark.parametrize("form", ["edm2", "fast-dit"])
def test_a_grid_of_them(form, imported, vae_folders, latent_files, tmp_path):
    from PIL import Image

    out, seen = imported(form), []
    vae = load_vae(vae_folders["kl"], "cpu")
    decode = vae.decode
    vae.decode = lambda latents: seen.append(latents) or decode(latents)
    save_grid(out, tmp_path / "grid.png", vae)
    (latents,) = seen
    (tmp_path / "again").mkdir()
    source = latent_files.make(form, tmp_path / "again")
    means = torch.from_numpy(source.expected[:, 0, 0])
    assert torch.allclose(latents, means / 0.18215 if form == "fast-dit" else means, rtol=2**-10, atol=1e-3)
    pixels = decode(latents)[0]
    corner = np.asarray(Image.open(tmp_path / "grid.png"))[:32, :32].transpose(2, 0, 1)
    wanted = in_bytes(pixels) if form == "edm2" else in_bytes((pixels + 1) / 2)
    assert (np.abs(corner.astype(int) - wanted.numpy().astype(int)) <= 1).all()


@pytest.mark.parametrize("form, words", [("fast-dit", "1 x 2.114 GMACs (each image is encoded unchanged or mirrored)"),
                                         ("edm2", "1 x 2.114 GMACs (each image is encoded unchanged)"),
                                         ("lightningdit", "2 x 2.114 GMACs (each image is encoded unchanged and mirrored)")])
def test_a_plan_counts_the_ways_that_are_stored(form, words, imported, latent_values):
    imported(form)
    latent_values["evaluation"]["vae"] = "stabilityai/sd-vae-ft-mse"
    (line,) = encoding_lines([SimpleNamespace(config=resolve(latent_values, "test"))], SimpleNamespace(kind="cpu", peak_flops=1e12))
    assert f"45 images x {words}" in line
