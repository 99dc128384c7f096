"""Runs exported as folders: diffusers' own classes give the same outputs and images; the card; what is refused; what is pushed."""

import json
import types

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from ditscale.cli import main
from ditscale.config import SamplingConfig
from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.models.convert import load_diffusers
from ditscale.objectives.from_config import build_model
from ditscale.rundir import append_line
from ditscale.training.checkpoint.checkpoint import load_ema
from ditscale.training.checkpoint.weights import run_config

LATENT = {"data.resolution": 4, "data.channels": 4, "data.classes": 5, "data.latent_scale": [0.5], "data.latent_shift": [0.0],
          "model.name": "DiT-atto/2", "evaluation.samples": 16, "evaluation.batch": 16}


def ditscale(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words):
    result = ditscale(*words)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def refused(*words):
    result = ditscale(*words)
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit) and len(lines) == 1, result.output
    return lines[0]


def weights_of(run):
    return load_ema(run.checkpoints / "images-000000000640")


def model_of(run):
    model = build_model(run_config(run))
    model.load_state_dict(weights_of(run), strict=False)
    return model.eval()


def outputs(call, channels=4, side=4):
    torch.manual_seed(1)
    with torch.no_grad():
        return call(torch.randn(4, channels, side, side), torch.tensor([0.0, 3, 500, 999]), torch.tensor([0, 4, 2, 5]))


@pytest.mark.parametrize("formulation", ["ddpm", "flow"])
def test_diffusers_class_gives_equal_outputs(hand_run, tmp_path, formulation):
    run = hand_run({**LATENT, "formulation.name": formulation})
    said = done("export", run.path, tmp_path / "out")
    twin, ours = load_diffusers(tmp_path / "out"), outputs(model_of(run))
    theirs = outputs(lambda x, t, y: twin(x, timestep=t, class_labels=y).sample)
    assert torch.allclose(theirs, ours, atol=1e-5) and ours.abs().max() > 0.1
    assert (tmp_path / "out" / "model_index.json").exists() == (formulation == "ddpm")
    assert ("no DiTPipeline, as its schedulers are of ddpm" in said) == (formulation == "flow")


def test_a_diffusers_folder_says_whose_time_and_outputs_it_has(hand_run, tmp_path):
    """Also once it is converted, to a file and back to a folder: it is never taken for a DiT of ddpm."""
    run = hand_run({**LATENT, "formulation.name": "flow", "formulation.time_scale": 1.0, "evaluation.sampling_steps": 7})
    assert "transformer/ditscale.json has its formulation, time scale and sampler" in done("export", run.path, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "transformer" / "ditscale.json").read_text())
    assert facts["formulation"]["name"] == "flow" and facts["formulation"]["time_scale"] == 1.0
    assert (facts["sampling"]["sampler"], facts["sampling"]["sampling_steps"]) == ("heun", 7) and "no DiTPipeline" in facts["diffusers"]
    for source, target in (("out", "a.pt"), ("out/transformer", "b.safetensors"), ("a.pt", "again"), ("again", "c.pt")):
        said = done("convert", tmp_path / source, tmp_path / target)
        assert "time and outputs are not DiT's (formulation flow)" in said or source == "a.pt"
    for name in ("a.pt", "b.safetensors", "c.pt"):
        assert "no longer a project's (formulation flow)" in refused("import-run", tmp_path / name, tmp_path / "imported", "--like", "dit")
    for command in ("sample", "evaluate"):
        assert "a folder of weights, not a run" in refused(command, tmp_path / "out", *([tmp_path / "x", "--images", 1] if command == "sample" else []))
    (tmp_path / "again" / "ditscale.json").write_text("[")
    assert "it says whose time and outputs these weights have" in refused("convert", tmp_path / "again", tmp_path / "d.pt")


def test_ddpm_has_no_other_outputs(hand_run, tmp_path):
    done("export", hand_run({**LATENT, "formulation.name": "ddpm"}).path, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "transformer" / "ditscale.json").read_text())
    assert facts["diffusers"] == "DiTPipeline" and facts["formulation"]["name"] == "ddpm" and "ditscale.outputs" not in facts
    assert "not DiT's" not in done("convert", tmp_path / "out", tmp_path / "a.pt")


def test_the_whole_pipeline_makes_our_images(hand_run, tmp_path, vae_folders):
    """DDIM over every hundredth timestep, guided on all channels, from one noise: DiTPipeline's latents and ditscale's.

    DiTPipeline always takes class 1000 for no class, which the folder's notes say; here it is 5.
    """
    import diffusers

    vae = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"])
    vae.register_to_config(shift_factor=None)
    vae.save_pretrained(tmp_path / "vae")
    run = hand_run({**LATENT, "formulation.name": "ddpm"})
    said = done("export", run.path, tmp_path / "out", "--vae", tmp_path / "vae")
    assert "a whole DiTPipeline" in said and "null class is always 1000, this model's 5: call it with guidance_scale=1" in said
    pipe = diffusers.DiTPipeline.from_pretrained(tmp_path / "out")
    for block in pipe.transformer.transformer_blocks:                          # as the card says
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    assert "downscale_freq_shift = 0" in (tmp_path / "out" / "README.md").read_text() and pipe.vae.config.scaling_factor == 0.5
    labels, noise = torch.tensor([0, 3]), torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(7))
    decode, forward, seen = pipe.vae.decode, pipe.transformer.forward, []
    pipe.vae.decode = lambda latents: seen.append(latents) or decode(latents)
    pipe.transformer.forward = lambda x, timestep, class_labels: forward(x, timestep=timestep, class_labels=class_labels.where(class_labels != 1000, 5))
    pipe.set_progress_bar_config(disable=True)
    pipe(labels.tolist(), guidance_scale=2.0, num_inference_steps=10, generator=torch.Generator().manual_seed(7), output_type="np")
    settings = SamplingConfig(sampler="ddim", respacing="ddim", sampling_steps=10, guidance_scale=2.0, vae=str(tmp_path / "vae"))
    config = run_config(run)
    maker = ImageMaker(config.model_copy(update={"imported": types.SimpleNamespace(latents=True)}), settings, "cpu")
    maker.load(weights_of(run))
    ours = maker.from_noise(noise, labels, 0, labels) / 0.5                    # as they go to the autoencoder
    assert (seen[0] - ours).norm() < 1e-5 * ours.norm() and ours.std() > 0.1


def test_a_pipeline_without_an_autoencoder_takes_one(hand_run, tmp_path, vae_folders):
    import diffusers

    run = hand_run({**LATENT, "formulation.name": "ddpm"})
    assert "pass vae= when it is loaded, of scaling_factor 0.5" in done("export", run.path, tmp_path / "out")
    pipe = diffusers.DiTPipeline.from_pretrained(tmp_path / "out", vae=diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"]))
    assert pipe.vae is not None and not pipe.scheduler.config.clip_sample


@pytest.mark.parametrize("form, file", [("released", "model.pt"), ("safetensors", "model.safetensors")])
def test_other_folders(hand_run, tmp_path, form, file):
    run = hand_run(LATENT)
    done("export", run.path, tmp_path / "out", "--format", form)
    path = tmp_path / "out" / file
    state = torch.load(path, weights_only=True) if form == "released" else load_file(path)
    assert all(torch.equal(state[name], value) for name, value in weights_of(run).items())
    done("export", run.path, tmp_path / "lone.pt")
    assert torch.load(tmp_path / "lone.pt", weights_only=True).keys() == build_model(run_config(run)).state_dict().keys()


@pytest.mark.parametrize("form, file", [("released", "model.pt"), ("diffusers", "transformer/diffusion_pytorch_model.safetensors")])
def test_a_tread_run_is_a_plain_dit_in_every_format(hand_run, tmp_path, form, file):
    """The same weights as the baseline's, so the same file."""
    files = []
    for name in ("baseline", "tread"):
        run = hand_run({**LATENT, "objective.name": name}, name=f"run-{name}")
        done("export", run.path, tmp_path / name, "--format", form)
        done("export", run.path, tmp_path / f"{name}.safetensors")
        files.append(((tmp_path / name / file).read_bytes(), load_file(tmp_path / f"{name}.safetensors")))
    assert files[0][0] == files[1][0] and files[0][1].keys() == files[1][1].keys()
    assert all(torch.equal(value, files[1][1][key]) for key, value in files[0][1].items())


@pytest.mark.parametrize("changes, form, words", [
    ({"objective.name": "mdt"}, "diffusers", "this run's model is that of objective mdt; --format safetensors holds it"),
    ({"objective.name": "masked"}, "released", "this run's model is that of objective masked; --format safetensors"),
    ({"model.block": "adaln"}, "diffusers", "this run's model has blocks adaln; --format safetensors"),
    ({"model.qk_norm": True}, "released", "this run's model has QK-norm"),
    ({"model.class_dropout_prob": 0.0}, "diffusers", "with a null class, and this run's model has none"),
])
def test_what_a_format_cannot_hold(hand_run, tmp_path, changes, form, words):
    run = hand_run({**LATENT, **changes})
    assert words in refused("export", run.path, tmp_path / "out", "--format", form)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    done("export", run.path, tmp_path / "all", "--format", "safetensors")
    assert (tmp_path / "all" / "README.md").exists()


def test_the_card(hand_run, tmp_path):
    run = hand_run({**LATENT, "evaluation.reference_path": "/home/somebody/reference.npz", "data.path": "/home/somebody/train.beton"})
    run.update_record(environment={"device": "H200", "host": "secret-host"})
    append_line(run.metrics, {"images_seen": 640, "seconds": 5.0, "accelerator_hours": 1.25})
    passport = {"metric": "fid", "samples": 50_000, "seed": 3, "guidance_scale": 1.5}
    for images, score in ((320, 99.0), (640, 12.5)):
        append_line(run.evals, {"images_seen": images, "metric": "fid", "score": score, "passport": passport, "passport_id": "x"})
    done("export", run.path, tmp_path / "out", "--format", "safetensors")
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["diffusion-transformer", "class-conditional-image-generation", "ditscale"]
    for words in ("640 images, batch 64", "decay 0.9 a step", "1.25 accelerator-hours (H200)", "| fid | 12.5 |", '"samples": 50000', "formulation flow"):
        assert words in card
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"somebody" not in everything and b"secret-host" not in everything and "99" not in card


@pytest.mark.parametrize("changes, vae, kind", [({"data.channels": 1}, False, "DiTTransformer2DModel"), ({}, False, "DiTPipeline"), ({}, True, "DiTPipeline"),
                                                ({"formulation.name": "flow"}, False, "DiTTransformer2DModel")])
def test_the_cards_code_runs(hand_run, tmp_path, vae_folders, changes, vae, kind):
    import diffusers

    autoencoder = diffusers.AutoencoderKL.from_pretrained(vae_folders["kl"])
    autoencoder.register_to_config(shift_factor=None)
    autoencoder.save_pretrained(tmp_path / "vae")
    run = hand_run({**LATENT, "formulation.name": "ddpm", **changes})
    said = done("export", run.path, tmp_path / "dit", "--format", "diffusers", *(["--vae", tmp_path / "vae"] if vae else []))
    card = (tmp_path / "dit" / "README.md").read_text()
    assert "as the card" not in card and "README.md, section Use" in said
    code = card.split("```python\n")[1].split("```")[0]
    made = {}
    exec(code.replace("path/to/this/folder", str(tmp_path / "dit")).replace("path/to/autoencoder", str(tmp_path / "vae")), made)
    loaded = made["pipe" if kind == "DiTPipeline" else "model"]
    assert type(loaded).__name__ == kind and ("AutoencoderKL" in code) == (kind == "DiTPipeline" and not vae)
    twin = loaded.transformer if kind == "DiTPipeline" else loaded
    channels = changes.get("data.channels", 4)
    assert torch.allclose(outputs(lambda x, t, y: twin(x, timestep=t, class_labels=y).sample, channels), outputs(model_of(run), channels), atol=1e-5)


@pytest.mark.parametrize("name", ["y", "y.pt", "y.safetensors"])
def test_a_place_that_cannot_be_written(hand_run, name):
    assert refused("export", hand_run(LATENT).path, f"/proc/{name}") == f"error: /proc/{name} cannot be written: No such file or directory"


class Hub:
    """The hub that huggingface_hub would speak to."""

    def __init__(self, fails=None):
        self.calls, self.fails = [], fails

    def create_repo(self, repo, **options):
        self.calls.append(("create", repo, options))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        import pathlib

        if self.fails:
            raise self.fails
        files = sorted(str(path.relative_to(folder_path)) for path in pathlib.Path(folder_path).rglob("*") if path.is_file())
        self.calls.append(("upload", repo_id, files))
        return types.SimpleNamespace(commit_url=f"hub/{repo_id}")


def test_push(hand_run, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    run = hand_run({**LATENT, "formulation.name": "ddpm"})
    files = ["README.md", "model_index.json", "scheduler/scheduler_config.json", "transformer/config.json",
             "transformer/diffusion_pytorch_model.safetensors", "transformer/ditscale.json"]
    said = done("push", run.path, "somebody/my-dit")
    assert "nothing was sent" in said and not hub.calls and all(file in said for file in files)
    done("push", run.path, "somebody/my-dit", "--to-folder", tmp_path / "copy")
    assert sorted(str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()) == files and not hub.calls
    assert refused("push", run.path, "somebody/my-dit", "--to-folder", "/proc/y") == "error: /proc/y cannot be written: No such file or directory"
    assert "sent: hub/somebody/my-dit" in done("push", run.path, "somebody/my-dit", "--send", "--private")
    assert hub.calls == [("create", "somebody/my-dit", {"private": True, "exist_ok": True}), ("upload", "somebody/my-dit", files)]


def test_push_takes_any_model_and_fails_in_one_line(hand_run, tmp_path, monkeypatch):
    run = hand_run({**LATENT, "objective.name": "mdt"})
    done("push", run.path, "a/b", "--to-folder", tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["objective"]["name"] == "mdt"
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(RuntimeError("401 Client Error\nlog in first")))
    for words, said in ((["a/b", "--send"], "a/b: not sent: 401 Client Error"), (["no-owner"], "is not the name of a repository"),
                        (["a/b", "--send", "--to-folder", "x"], "give one of them"), (["a/b", "--to-folder", tmp_path], "already exists")):
        assert said in refused("push", run.path, *words)


@pytest.mark.parametrize("form", ["diffusers", "safetensors"])
def test_a_parametrized_run_is_exported_as_a_standard_model(hand_run, tmp_path, form):
    """Scales of branches and of the last layer's inputs are in the weights: standard code computes the run's outputs."""
    parametrized = {"model.name": "DiT-4x64x2/2", "model.parametrization": "completep", "model.base_width": 32, "model.base_depth": 2, "train.grad_clip": 1.0}
    run = hand_run({**LATENT, **parametrized, "formulation.name": "ddpm"})
    expected = outputs(model_of(run))
    assert model_of(run).blocks[0].branch_scale == 0.5 and model_of(run).final_layer.linear.input_scale == 0.5
    done("export", run.path, tmp_path / "out", "--format", form)
    if form == "diffusers":
        model = load_diffusers(tmp_path / "out" / "transformer").eval()
        found = outputs(lambda x, t, y: model(x, timestep=t, class_labels=y).sample)
    else:
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert not {"parametrization", "base_width", "base_depth"} & written["model"].keys()
        own = run_config(run)
        plain = own.model.model_copy(update={"parametrization": "standard", "base_width": None, "base_depth": None})
        model = build_model(own.model_copy(update={"model": plain})).eval()
        model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=False)
        found = outputs(model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
