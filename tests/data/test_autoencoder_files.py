"""Where an autoencoder may lie: folders, pipelines, 16-bit weights, one file, the hub; and what is refused without asking the hub."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings

import diffusers
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ditscale.cli import main
from ditscale.config import DataConfig
from ditscale.data.autoencoders.files import open_autoencoder
from ditscale.data.manifest import read_manifest
from ditscale.data.vae import load_vae
from ditscale.errors import UserError
from ditscale.evaluation.sampling.decoder import make_decoder
from ditscale.section import validate
from ditscale.studies.plan.encoding import encoder_macs

WEIGHTS = "diffusion_pytorch_model.safetensors"
WIDTHS = {"block_out_channels": (32, 32, 64), "norm_num_groups": 32, "down_block_types": ("DownEncoderBlock2D",) * 3,
          "up_block_types": ("UpDecoderBlock2D",) * 3, "layers_per_block": 1}


@pytest.fixture
def no_network(monkeypatch):
    """Whoever looks up a host fails the test."""
    def asked(*arguments, **options):
        raise AssertionError(f"the network was asked for {arguments}")
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)


def silent(line):
    raise AssertionError(f"said: {line}")


def loaded(name, **options):
    return load_vae(str(name), "cpu", say=silent, **options)


def refused(name, **options) -> str:
    with pytest.raises(UserError) as error:
        loaded(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def pipeline(vae_folders, tmp_path):
    """A pipeline's folder, as diffusers saves it."""
    shutil.copytree(vae_folders["kl"], tmp_path / "pipe" / "vae")
    (tmp_path / "pipe" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return tmp_path / "pipe"


def test_folders_pipelines_and_subfolders(vae_folders, pipeline, no_network):
    wanted = loaded(vae_folders["kl"]).description
    assert loaded(pipeline).description == loaded(pipeline, subfolder="vae").description == loaded(pipeline / "vae").description == wanted
    (pipeline / "vae").rename(pipeline / "first_stage")
    assert loaded(pipeline, subfolder="first_stage").description == wanted
    assert "pipe: no autoencoder that can be read" in refused(pipeline)
    assert f"--vae {pipeline}/vae: no such file or folder" == refused(pipeline, subfolder="vae")


def test_weights_of_16_bits_alone_are_taken_in_fp32(vae_folders, tmp_path, no_network):
    model = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]).half()
    model.save_pretrained(tmp_path, variant="fp16")
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.fp16.safetensors"}
    vae = loaded(tmp_path)
    assert {value.dtype for value in vae.model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(value, model.state_dict()[name].float()) for name, value in vae.model.state_dict().items())
    model.float().save_pretrained(tmp_path / "sharded", variant="fp16", max_shard_size="20KB")
    assert loaded(tmp_path / "sharded").description == vae.description and len(list((tmp_path / "sharded").iterdir())) > 3


def ldm_names(tensors, blocks, nested=False):
    """diffusers' names as latent-diffusion's code has them, by the modules of its Encoder and Decoder; FLUX.2's code nests two more."""
    found = {}
    for name, value in tensors.items():
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{blocks - 1 - int(match[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{blocks - 1 - int(match[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
        if "attentions" in name:
            value = value[:, :, None, None] if value.dim() == 2 else value
            for theirs, old in (("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_", "")):
                name = name.replace(theirs, old)
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if nested and "quant_conv" in name:
            name = f"{'decoder' if name.startswith('post') else 'encoder'}.{name}"
        found[name] = value.contiguous()
    return found


FILES = {                                                                      # class, options, the names nested as in FLUX.2's code, prefix
    "vae-ft-mse": ("AutoencoderKL", {}, False, ""),
    "ae": ("AutoencoderKL", {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}, False, ""),
    "whole checkpoint": ("AutoencoderKL", {"mid_block_add_attention": False}, False, "first_stage_model."),
    "flux2": ("AutoencoderKLFlux2", {"latent_channels": 32}, True, ""),
    "flux2 small decoder": ("AutoencoderKLFlux2", {"latent_channels": 32, "decoder_block_out_channels": (32, 64, 64)}, False, "")}


@pytest.mark.parametrize("name", FILES)
def test_one_file_of_latent_diffusions_names(name, tmp_path, no_network):
    kind, options, nested, prefix = FILES[name]
    torch.manual_seed(2)
    model = getattr(diffusers, kind)(**WIDTHS, **options).eval()
    if kind == "AutoencoderKLFlux2":
        model.bn.running_var.uniform_(0.5, 2)
    tensors = {prefix + one: value for one, value in ldm_names(model.state_dict(), 3, nested).items() if "num_batches" not in one}
    if prefix:
        tensors["model.diffusion_model.out.0.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "one.safetensors")
    vae = loaded(tmp_path / "one.safetensors")
    pixels, latents = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, model.config.latent_channels, 4, 4)
    with torch.inference_mode():
        assert torch.equal(vae.model.encode(pixels).latent_dist.mean, model.encode(pixels).latent_dist.mean)
        assert torch.equal(vae.model.decode(latents).sample, model.decode(latents).sample)
    assert vae.says_scale == (kind == "AutoencoderKLFlux2")
    if kind == "AutoencoderKL":                                                # diffusers' own reader, with the config
        model.save_config(tmp_path / "config")
        other = diffusers.AutoencoderKL.from_single_file(str(tmp_path / "one.safetensors"), config=str(tmp_path / "config"))
        assert all(torch.equal(value, vae.model.state_dict()[one]) for one, value in other.state_dict().items())


def test_one_file_needs_scale_and_shift_unless_a_config_is_next_to_it(pixels, vae_folders, tmp_path, no_network):
    model = diffusers.AutoencoderKL(**WIDTHS, scaling_factor=0.13025)
    path, out = tmp_path / "sdxl_vae.safetensors", tmp_path / "latents.beton"
    save_file(ldm_names(model.state_dict(), 3), path)

    def command(*options, vae=path):
        return CliRunner().invoke(main, ["data", "encode", str(pixels), str(out), "--vae", str(vae), "--device", "cpu", *options])

    asked = command()
    assert asked.exit_code == 2 and "give --scale and --shift, which it does not say" in asked.stderr and "SDXL 0.13025 and 0" in asked.stderr
    assert "3 numbers for 4 channels" in command("--scale", "1,2,3", "--shift", "0").stderr and not out.exists()
    assert "0: is not above 0" in command("--scale", "0", "--shift", "0").stderr
    assert command("--scale", "0.13025", "--shift", "0").exit_code == 0
    encoder = read_manifest(out).encoder
    assert (encoder["scaling_factor"], encoder["shift_factor"], encoder["class"]) == (0.13025, 0, "AutoencoderKL")
    assert "--scale, --shift: --vae" in command("--scale", "1", "--shift", "0", vae=vae_folders["kl"]).stderr
    model.save_config(tmp_path)
    beside = loaded(path)
    assert beside.says_scale and beside.description["scaling_factor"] == 0.13025
    assert beside.description["weights_sha256"] == encoder["weights_sha256"]
    for name in ("kl", "tiny"):                                                # diffusers' names, with the config
        assert loaded(f"{vae_folders[name]}/{WEIGHTS}").description == loaded(vae_folders[name]).description


def test_what_cannot_be_read_is_one_line(vae_folders, tmp_path, no_network):
    for name in ("./nope", "nope.safetensors", str(tmp_path / "nope"), "~/nope"):
        assert refused(name) == f"--vae {name}: no such file or folder"
    folder = tmp_path / "kl"
    shutil.copytree(vae_folders["kl"], folder)
    tensors = load_file(folder / WEIGHTS)
    assert "no config.json next to it" in refused(shutil.copy(folder / WEIGHTS, tmp_path / "alone.safetensors"))
    assert "--subfolder vae: " in refused(tmp_path / "alone.safetensors", subfolder="vae")
    save_file({name: value for name, value in tensors.items() if "conv_in" not in name}, folder / WEIGHTS)
    for name in (folder, folder / WEIGHTS):
        assert "its weights lack 4 tensors of the autoencoder, for example decoder.conv_in.bias; is the file complete?" in refused(name)
    (folder / WEIGHTS).write_bytes(b"no tensors")
    assert "not a complete safetensors file" in refused(folder / WEIGHTS) and "cannot be read" in refused(folder)
    torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert "diffusion_pytorch_model.bin alone, which may hold code and is not read" in refused(folder)
    assert "is read as safetensors; others may hold code" in refused(folder / "diffusion_pytorch_model.bin")
    (folder / "config.json").write_text("{")
    assert "config.json: cannot be read" in refused(folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    assert "is a UNet2DModel, not one of AutoencoderKL, AutoencoderTiny, AutoencoderDC, AutoencoderKLFlux2" in refused(folder)
    short = ldm_names(diffusers.AutoencoderKL(**WIDTHS).state_dict(), 3)
    short = {name: value for name, value in short.items() if not name.startswith("decoder")}
    save_file(short, tmp_path / "encoder.safetensors")
    assert "no whole autoencoder: 'decoder.up.0.block.0.conv2.weight' is missing" in refused(tmp_path / "encoder.safetensors")


def test_the_source_is_looked_at_before_the_hub_is_asked(latents, tmp_path, no_network):
    def command(*arguments):
        return CliRunner().invoke(main, ["data", *map(str, arguments)])

    for source, words in ((tmp_path / "missing.beton", "no such file"), (latents, "holds latents already")):
        done = command("encode", source, tmp_path / "out.beton", "--vae", "nope")
        assert done.exit_code == 2 and words in done.stderr and "hub" not in done.stderr
    done = command("import", tmp_path / "missing", tmp_path / "out.beton", "--vae", "nope")
    assert done.exit_code == 2 and "no such file or folder" in done.stderr and "hub" not in done.stderr


def hub_cache(home, repository, content):
    """A model of the hub as its client keeps it, here."""
    place = home / "hub" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(content, place / "snapshots" / ("0" * 40))


ASKS = """
import json, sys
from ditscale.data.vae import load_vae
from ditscale.errors import UserError
for name, subfolder in json.loads(sys.argv[1]):
    print(name, file=sys.stderr)
    try:
        print(load_vae(name, "cpu", subfolder=subfolder).description["weights_sha256"])
    except UserError as error:
        print(error)
"""


def test_names_on_the_hub(pipeline, vae_folders, tmp_path):
    """By what its client keeps: no network is needed. That it is asked is said first; a pipeline's folder vae is found."""
    diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]).half().save_pretrained(pipeline / "half", variant="fp16")
    hub_cache(tmp_path / "home", "someone/pipe", pipeline)
    hub_cache(tmp_path / "home", "someone/plain", vae_folders["kl"])
    names = [("someone/pipe", None), ("someone/pipe/vae", None), ("someone/plain", None), ("someone/pipe/half", None), ("someone/pipe", "half"),
             ("someone/other", None)]
    done = subprocess.run([sys.executable, "-c", ASKS, json.dumps(names)], capture_output=True, text=True, timeout=120, cwd=tmp_path,
                          env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"})
    said = [line for line in done.stderr.splitlines() if line.startswith(("someone", "--vae"))]
    assert said[::2] == [name for name, _ in names], done.stderr               # each is followed by what is said before anything else
    for line, (name, subfolder) in zip(said[1::2], names):
        whole = f"{name}/{subfolder}" if subfolder else name
        assert line == f"--vae {whole}: no such file or folder here; asking the Hugging Face hub for {'/'.join(name.split('/')[:2])}"
    *found, refusal = done.stdout.splitlines()
    whole = loaded(vae_folders["kl"]).description["weights_sha256"]
    assert found[:3] == [whole] * 3 and found[3] == found[4] != whole
    assert refusal == ("--vae someone/other: HF_HUB_OFFLINE is set, so the Hugging Face hub is not asked, and no earlier download of "
                       "someone/other is here")


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")          # nobody answers there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    started, said = time.monotonic(), []
    with warnings.catch_warnings(), pytest.raises(UserError) as refusal:
        warnings.simplefilter("error")
        open_autoencoder("someone/other", None, said.append)
    assert str(refusal.value).startswith("--vae someone/other: the Hugging Face hub could not be reached (")
    assert str(refusal.value).endswith("), and no earlier download of someone/other is here")
    assert time.monotonic() - started < 5 and len(said) == 1 and capfd.readouterr() == ("", "")


def test_a_run_is_scored_and_planned_with_the_pipelines_folder(latents, pipeline):
    data = validate(DataConfig, {"name": "noise", "path": str(latents), "resolution": 4, "channels": 4, "classes": 5}, "test")
    assert make_decoder(data, str(pipeline), "cpu").name.startswith("AutoencoderKL ")
    (pipeline / "vae" / "config.json").write_text(json.dumps({
        "_class_name": "AutoencoderKL", "in_channels": 3, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}))
    assert encoder_macs(str(pipeline), 1024) == encoder_macs(str(pipeline / "vae"), 1024) == encoder_macs("stabilityai/sd-vae-ft-mse", 1024)
