"""Each class of diffusers' autoencoders: what a model sees and what its samples become, against the pipeline's own arithmetic."""

import json

import diffusers
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from ditscale import randomness
from ditscale.cli import main
from ditscale.config import DataConfig
from ditscale.data.beton import BetonFile, write_beton
from ditscale.data.encode import encode
from ditscale.data.inspect import save_grid
from ditscale.data.latents import from_bits
from ditscale.data.loader import StreamLoader
from ditscale.data.manifest import Manifest, content_blake2b, read_manifest, write_manifest
from ditscale.data.order import indices_at
from ditscale.data.prepare import make_prepare
from ditscale.data.vae import load_vae
from ditscale.errors import UserError
from ditscale.evaluation.sampling.decoder import make_decoder
from ditscale.section import validate

IMAGES = 4
WIDTHS = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 4,
          "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 1}
VIDEO = {"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1}


def numbers(count, seed):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).tolist()


def flux2():
    model = diffusers.AutoencoderKLFlux2(**WIDTHS, latent_channels=32)
    model.bn.running_mean.copy_(torch.tensor(numbers(128, 3)))
    model.bn.running_var.copy_(torch.tensor(numbers(128, 4)).square())         # some near 0, where the 1e-4 counts
    return model


MADE = {                                                                       # small, with random weights
    "sd": lambda: diffusers.AutoencoderKL(**WIDTHS),
    "sdxl": lambda: diffusers.AutoencoderKL(**WIDTHS, scaling_factor=0.13025, force_upcast=True),
    "sdxl with statistics": lambda: diffusers.AutoencoderKL(
        **WIDTHS, scaling_factor=0.5, latents_mean=numbers(4, 1), latents_std=[0.5, 8.4, 1.0, 2.0]),
    "sd3": lambda: diffusers.AutoencoderKL(**WIDTHS, latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
                                           use_post_quant_conv=False),
    "flux": lambda: diffusers.AutoencoderKL(**WIDTHS, latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                                            use_post_quant_conv=False),
    "flux2": flux2,
    "dc": lambda: diffusers.AutoencoderDC(
        latent_channels=32, attention_head_dim=8, encoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"],
        decoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"], encoder_block_out_channels=(8, 8, 16, 16, 32, 32),
        decoder_block_out_channels=(8, 8, 16, 16, 32, 32), encoder_layers_per_block=(0, 1, 1, 1, 1, 1), decoder_layers_per_block=(0, 1, 1, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 5 + ((5,),), decoder_qkv_multiscales=((),) * 5 + ((5,),), scaling_factor=0.41407),
    "qwen": lambda: diffusers.AutoencoderKLQwenImage(**VIDEO),
    "wan": lambda: diffusers.AutoencoderKLWan(**VIDEO),
    "wan 2.2": lambda: diffusers.AutoencoderKLWan(
        **VIDEO, z_dim=48, is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16,
        latents_mean=numbers(48, 5), latents_std=[0.5 + abs(number) for number in numbers(48, 6)]),
    "tiny": lambda: diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)}
SHAPES = {"sd": (4, 8), "sdxl": (4, 8), "sdxl with statistics": (4, 8), "sd3": (16, 8), "flux": (16, 8), "flux2": (128, 4), "dc": (32, 2),
          "qwen": (16, 8), "wan": (16, 8), "wan 2.2": (48, 4), "tiny": (4, 8)}     # of 64 pixels: channels, cells a side


class Scaled:
    """Stable Diffusion's, SDXL's without statistics, TAESD."""

    def fit(self, vae, x):
        return x * vae.config.scaling_factor

    def unfit(self, vae, z):
        return z / vae.config.scaling_factor

    def encode(self, vae, pixels):
        found = vae.encode(pixels)
        return (found.latent_dist.mean, found.latent_dist.std) if hasattr(found, "latent_dist") else (found.latents, None)

    def decode(self, vae, z):
        return vae.decode(self.unfit(vae, z), return_dict=False)[0]


class WithStatistics(Scaled):
    """pipeline_stable_diffusion_xl_img2img.py: prepare_latents and the end of __call__."""

    def columns(self, vae):
        return [torch.tensor(values).view(1, 4, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)]

    def fit(self, vae, x):
        mean, std = self.columns(vae)
        return (x - mean) * vae.config.scaling_factor / std

    def unfit(self, vae, z):
        mean, std = self.columns(vae)
        return z * std / vae.config.scaling_factor + mean


class Shifted(Scaled):
    """pipeline_stable_diffusion_3_img2img.py, pipeline_flux_img2img.py."""

    def fit(self, vae, x):
        return (x - vae.config.shift_factor) * vae.config.scaling_factor

    def unfit(self, vae, z):
        return z / vae.config.scaling_factor + vae.config.shift_factor


class FluxTwo(Scaled):
    """pipeline_flux2.py: _encode_vae_image and the end of __call__."""

    def patchify(self, x):
        batch, channels, height, width = x.shape
        return x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)

    def statistics(self, vae):
        return vae.bn.running_mean.view(1, -1, 1, 1), torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)

    def encode(self, vae, pixels):
        return tuple(self.patchify(one) for one in super().encode(vae, pixels))

    def fit(self, vae, x):
        mean, std = self.statistics(vae)
        return (x - mean) / std

    def unfit(self, vae, z):
        mean, std = self.statistics(vae)
        z = z * std + mean
        batch, channels, height, width = z.shape
        return z.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // 4, 2 * height, 2 * width)


class Sana(Scaled):
    """pipeline_sana.py, pipeline_sana_sprint_img2img.py without sigma_data, which is its scheduler's."""

    def encode(self, vae, pixels):
        return vae.encode(pixels).latent, None


class Video(Scaled):
    """pipeline_qwenimage_img2img.py, pipeline_wan.py."""

    def columns(self, vae):
        return [torch.tensor(values).view(1, vae.config.z_dim, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)]

    def encode(self, vae, pixels):
        return tuple(one.squeeze(2) for one in super().encode(vae, pixels.unsqueeze(2)))

    def fit(self, vae, x):
        mean, std = self.columns(vae)
        return ((x.unsqueeze(2) - mean) * (1.0 / std)).squeeze(2)

    def decode(self, vae, z):
        mean, std = self.columns(vae)
        return vae.decode(z.unsqueeze(2) / (1.0 / std) + mean, return_dict=False)[0][:, :, 0]


RULES = {"sdxl with statistics": WithStatistics(), "sd3": Shifted(), "flux": Shifted(), "flux2": FluxTwo(), "dc": Sana(), "qwen": Video(),
         "wan": Video(), "wan 2.2": Video()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """4 smooth images of 3 x 64 x 64 in 2 classes: the path."""
    path = tmp_path_factory.mktemp("pictures") / "train.beton"
    coarse = torch.rand(IMAGES, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = (255 * torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")).to(torch.uint8).numpy()
    labels = np.arange(IMAGES) % 2
    write_beton(path, {"image": images, "label": labels})
    write_manifest(path, Manifest(
        name="smooth", split="train", samples=IMAGES, shape=[3, 64, 64], classes=2, class_counts=[2, 2], source="a test",
        source_blake2b="0" * 64, content_blake2b=content_blake2b(images, labels), writer="numpy", ditscale_version="test"))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``folders(name)``: the folder of one of ``MADE``."""
    made = {}

    def folder_of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("vae") / "of"
            torch.manual_seed(1)
            MADE[name]().save_pretrained(made[name])
        return str(made[name])
    return folder_of


def theirs(folder):
    config = diffusers.AutoencoderKL.load_config(folder)
    return getattr(diffusers, config["_class_name"]).from_pretrained(folder).eval()


def section(path, name):
    channels, side = SHAPES[name]
    return validate(DataConfig, {"name": "smooth", "path": str(path), "resolution": side, "channels": channels, "classes": 2, "flip": True}, "test")


@pytest.mark.parametrize("name", MADE)
def test_encoded_normalized_and_decoded_as_by_its_pipeline(name, folders, pictures, tmp_path):
    rule, vae, out = RULES.get(name, Scaled()), theirs(folders(name)), tmp_path / "latents.beton"
    encode(pictures, out, load_vae(folders(name), "cpu"), say=lambda line: None)
    data, file = section(out, name), BetonFile(out)
    assert read_manifest(out).shape == [data.channels, data.resolution, data.resolution]
    prepare, ours, wanted = make_prepare(data), [], []
    streams = prepare.streams | {"flip": randomness.Uniform()}
    pixels = torch.from_numpy(BetonFile(pictures).read("image", np.arange(IMAGES))).float() / 127.5 - 1
    with StreamLoader(out, seed=3, global_batch=IMAGES, micro_batch=IMAGES, end_images=IMAGES, backend="mmap", pick=prepare.pick) as loader, \
            torch.inference_mode():
        for raw, _, positions in loader:
            draws = randomness.draw(3, positions, streams)
            ours = prepare(raw, draws)
            mirrored = draws["flip"][:, 0, None, None, None] < 0.5
            seen = pixels[indices_at(positions.numpy(), IMAGES, 3)]
            mean, std = rule.encode(vae, torch.where(mirrored, seen.flip(-1), seen))
            wanted = rule.fit(vae, mean if std is None else mean + std * draws["latent draw"])
        decoded, images = make_decoder(data, folders(name), "cpu")(ours), rule.decode(vae, ours)
    spread = wanted.std().item()
    assert (ours - wanted).abs().max() < 2**-8 * max(spread, wanted.abs().max().item()) and 0 < mirrored.sum() < IMAGES
    assert torch.allclose(decoded, images, atol=1e-5) and decoded.shape == (IMAGES, 3, 64, 64) and images.std() > 1e-4
    assert (prepare.streams == {}) == (std is None) and file.fields["moments"].shape[:2] == (2, 1 if std is None else 2)
    stored = from_bits(torch.from_numpy(file.read("moments", [0])), "fp16")[0, 0, 0]
    with torch.inference_mode():
        first = rule.encode(vae, pixels[:1])[0][0]
    assert torch.allclose(stored, first, rtol=2**-10, atol=1e-5)               # what is stored is the encoder's own


@pytest.mark.parametrize("name", ["flux2", "dc", "qwen"])
def test_a_grid_of_them(name, folders, pictures, tmp_path):
    out = tmp_path / "latents.beton"
    encode(pictures, out, load_vae(folders(name), "cpu"), say=lambda line: None)
    assert "4 images" in save_grid(out, tmp_path / "grid.png", load_vae(folders(name), "cpu"))


def test_autoencoders_are_told_apart(folders, pictures, tmp_path):
    """By weights, the statistics of a batch norm among them; and by class, where weights have the same names."""
    out = tmp_path / "latents.beton"
    vae = load_vae(folders("flux2"), "cpu")
    encode(pictures, out, vae, say=lambda line: None)
    model = theirs(folders("flux2"))
    model.bn.running_mean[7] += 1
    model.save_pretrained(tmp_path / "moved")
    names = {make_decoder(section(out, "flux2"), folders("flux2"), "cpu").name, load_vae(str(tmp_path / "moved"), "cpu").description["weights_sha256"][:12]}
    assert len(names) == 2
    with pytest.raises(UserError, match="has weights with sha256"):
        make_decoder(section(out, "flux2"), str(tmp_path / "moved"), "cpu")
    wan, qwen = theirs(folders("wan")), diffusers.AutoencoderKLQwenImage(**VIDEO)
    qwen.load_state_dict(wan.state_dict())
    qwen.save_pretrained(tmp_path / "qwen")
    encode(pictures, tmp_path / "wan.beton", load_vae(folders("wan"), "cpu"), say=lambda line: None)
    with pytest.raises(UserError, match="is an AutoencoderKLQwenImage, but .*wan.beton was encoded by an AutoencoderKLWan"):
        make_decoder(section(tmp_path / "wan.beton", "wan"), str(tmp_path / "qwen"), "cpu")


@pytest.mark.parametrize("options, words", [
    ({"latents_mean": [0.0] * 4}, "its config has latents_mean and no latents_std, which no pipeline defines"),
    ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1}, "latents_mean and latents_std and shift_factor"),
    ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 4}, "latents_mean is .0.0, 0.0, 0.0., not 4 numbers"),
    ({"latents_mean": [0.0] * 4, "latents_std": [1.0, 0.5, 0.1, 0]}, "its latents_std holds 0.0; numbers above 0")])
def test_a_normalization_that_no_pipeline_defines_is_refused(options, words, tmp_path):
    diffusers.AutoencoderKL(**WIDTHS, **options).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        load_vae(str(tmp_path), "cpu")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_parts_of_the_older_form_are_not_mixed_with_new_ones(folders, pictures, tmp_path):
    """ditscale 0.2.0 stored zeros for the std of an encoder that has none."""
    vae, parts = load_vae(folders("tiny"), "cpu"), tmp_path / "x.beton.parts"
    parts.mkdir()
    encoder = vae.description | {"bits": "fp16", "batch": 32}
    (parts / "plan.json").write_text(json.dumps({"encoder": encoder, "pixels": read_manifest(pictures).content_blake2b, "samples": IMAGES}))
    with pytest.raises(UserError, match="holds parts of another encoding .*or delete the folder"):
        encode(pictures, tmp_path / "x.beton", vae, say=lambda line: None)


def test_a_model_of_many_channels_is_planned_and_its_patch_must_divide(folders, pictures, tmp_path):
    out = tmp_path / "latents.beton"
    encode(pictures, out, load_vae(folders("flux2"), "cpu"), say=lambda line: None)
    study = {"version": 1, "name": "flux2", "metric": {"name": "loss", "goal": "minimize"}, "runs_dir": str(tmp_path / "runs"),
             "parameters": {"model.name": {"values": ["DiT-atto/2"]}},
             "config": {"data": {"name": "smooth", "path": str(out), "resolution": 4, "channels": 128, "classes": 2},
                        "formulation": {"name": "flow"}, "objective": {"name": "baseline"}, "evaluation": None,
                        "train": {"images": 64, "global_batch": 8, "checkpoint_every_images": 32}}}

    def planned(command="plan", **changes):
        study["config"]["data"] |= changes
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        return CliRunner().invoke(main, [command, str(tmp_path / "study.yaml")])

    assert planned().exit_code == 0
    wrong = planned(channels=4, resolution=32)
    assert wrong.exit_code == 2 and "holds latents of shape (128, 4, 4), but data.channels and data.resolution make (4, 32, 32); " \
        "data.channels: 128 and data.resolution: 4 would work" in wrong.stderr
    study["parameters"]["model.name"]["values"] = ["DiT-atto/8"]
    for command in ("plan", "train"):
        done = planned(command, channels=128, resolution=4)
        assert done.exit_code == 2 and "patch size 8 does not divide the input's 4 pixels a side; patch sizes that do: 2, 4" in done.stderr
