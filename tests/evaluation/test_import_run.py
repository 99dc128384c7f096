"""Others' weights as runs: whose they are, what is asked and what is refused; sampled, scored and compared by the commands."""

import argparse
import datetime
import json
import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.models.dit import DiT
from ditscale.models.masked import MaskedDiT
from ditscale.models.weights_file import bare_names, read_weights
from ditscale.rundir import RunDir, read_lines
from ditscale.studies.table.ledger import collect
from ditscale.training.checkpoint.checkpoint import load_ema
from ditscale.training.checkpoint.weights import run_config

pytestmark = pytest.mark.filterwarnings("error:.*meta parameter")         # of a model without numbers: users would see hundreds

SIZES = {"input_size": 8, "patch_size": 4, "in_channels": 1, "hidden_size": 24, "depth": 2, "num_heads": 3, "num_classes": 10}


def network(seed=0, **changes):
    torch.manual_seed(seed)
    model = DiT(**{**SIZES, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.state_dict()


@pytest.fixture
def saved(tmp_path):
    """``saved(what)``: the path of a file that torch saved."""
    def save(what, name="weights.pt"):
        torch.save(what, tmp_path / name)
        return str(tmp_path / name)
    return save


def ditscale(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(*words):
    """The one line with which a command ends."""
    result = ditscale(*words)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit) and len(result.output.splitlines()) == 1, result.output
    return result.output


def test_weights_of_a_training_that_diverged_are_refused(saved, tmp_path):
    state = network()
    state["final_layer.linear.bias"][0] = float("nan")
    text = refused("import-run", saved(state), tmp_path / "run", "--like", "dit", "--heads", 3)
    assert "final_layer.linear.bias (and 0 more) has values that are not finite" in text and not (tmp_path / "run").exists()


def test_what_is_no_file_of_weights(saved, tmp_path):
    (tmp_path / "study.yaml").write_text("version: 1\n")
    assert refused("import-run", tmp_path / "study.yaml", tmp_path / "run") == f"error: {tmp_path / 'study.yaml'}: not a file of weights\n"
    path = saved(network())
    os.truncate(path, os.path.getsize(path) // 2)
    assert refused("import-run", path, tmp_path / "run", "--like", "dit") == f"error: {path}: damaged or incomplete\n"


def test_dit_sit_and_repa_are_never_guessed_between(saved, tmp_path):
    path, out = saved(network()), tmp_path / "run"
    text = refused("import-run", path, out, "--heads", 3, "sampling_steps=9")
    for name in ("dit", "sit", "repa"):
        assert f"`ditscale import-run {path} {out} sampling_steps=9 --heads 3 --like {name}`" in text
    assert "--like dit" not in refused("import-run", saved(network(learn_sigma=False)), out, "--heads", 3)   # DiT has a variance
    assert not out.exists() and [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize("args, like, interpolant", [
    ({"model": "DiT-S/4", "image_size": 256}, "dit", None),
    ({"model": "SiT-S/4", "path_type": "GVP", "prediction": "velocity"}, "sit", "cosine"),
    ({"model": "SiT-S/4", "path_type": "linear", "prediction": "v", "enc_type": "dinov2-vit-b", "proj_coeff": 0.5}, "repa", "linear"),
])
def test_a_training_script_says_whose_it_is(saved, tmp_path, args, like, interpolant):
    path = saved({"ema": network(), "model": {}, "opt": {}, "args": argparse.Namespace(**args, num_classes=10)})
    result = ditscale("import-run", path, tmp_path / "run", "--heads", 3)
    config = run_config(RunDir(tmp_path / "run"))
    assert "by its training script's arguments" in result.output and config.imported.like == like
    assert getattr(config.formulation, "interpolant", None) == interpolant
    assert run_config(RunDir(tmp_path / "run")).imported.sampling.sampler == ("ddpm" if like == "dit" else "sde")


def test_what_a_script_says_that_cannot_be(saved, tmp_path):
    for path, prediction, words in (("VP", "velocity", "its path is VP (--path-type)"), ("Linear", "score", "predicts the score")):
        args = argparse.Namespace(model="SiT-S/4", path_type=path, prediction=prediction)
        assert words in refused("import-run", saved({"ema": network(), "args": args}), tmp_path / "run", "--heads", 3)


def test_of_classes_that_pickles_name_a_namespace_alone_is_loaded(saved, capsys):
    class Mine:
        def __reduce__(self):
            return print, ("owned",)

    state = network()
    assert read_weights(saved({"ema": state, "args": argparse.Namespace(lr=1e-4)})).args == {"lr": 1e-4}
    for other, name in ((datetime.date(2026, 1, 1), "datetime.date"), (Mine(), "print")):
        with pytest.raises(UserError, match=f"it holds a {name}, and nothing but tensors, numbers and text is loaded"):
            read_weights(saved({"ema": state, "args": argparse.Namespace(when=other)}))
    assert "owned" not in capsys.readouterr().out
    with pytest.raises(UserError, match="not weights that can be loaded safely"):
        read_weights(saved({"ema": state, "args": datetime.date(2026, 1, 1)}))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()    # nor is it, outside


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "ema_model.module."])
def test_wrappers_names(prefix):
    state = network()
    assert bare_names({prefix + key: value for key, value in state.items()}, "x").keys() == state.keys()
    assert "blocks.0.mlp.fc1.weight" in bare_names({"blocks.0._orig_mod.mlp.fc1.weight": torch.ones(1)}, "x")
    with pytest.raises(UserError, match="holds 'a.b' twice"):
        bare_names({"_orig_mod.a.b": torch.ones(1), "a.b": torch.ones(1)}, "x")


def test_the_average_is_taken_or_the_part_that_is_asked_for(saved, tmp_path):
    path = saved({"model": {f"module.{key}": value for key, value in network(1).items()}, "ema": network(2), "opt": {}})
    for part, seed, words in (("ema", 2, "averaged weights"), ("model", 1, "the last weights")):
        result = ditscale("import-run", path, tmp_path / part, "--like", "dit", "--heads", 3, "--part", part)
        kept = load_ema(tmp_path / part / "checkpoints" / "images-000000000000")
        assert words in result.output and torch.equal(kept["final_layer.linear.weight"], network(seed)["final_layer.linear.weight"])
    assert "holds no weights 'teacher'; it has model, ema" in refused("import-run", path, tmp_path / "no", "--like", "dit", "--part", "teacher")


def test_half_precision_and_safetensors(tmp_path):
    save_file({key: value.half() for key, value in network().items()}, tmp_path / "w.safetensors")
    ditscale("import-run", tmp_path / "w.safetensors", tmp_path / "run", "--like", "sit", "--heads", 3)
    kept = load_ema(tmp_path / "run" / "checkpoints" / "images-000000000000")
    assert {value.dtype for value in kept.values()} == {torch.float32}


def test_images_seen_as_the_user_says(saved, tmp_path):
    result = ditscale("import-run", saved(network()), tmp_path / "run", "--like", "dit", "--heads", 3, "--images-seen", 102_400_000)
    assert "102,400,000, as given" in result.output and (tmp_path / "run" / "checkpoints" / "images-000102400000").is_dir()
    assert RunDir(tmp_path / "run").status()["images_seen"] == 102_400_000


@pytest.mark.parametrize("options, words", [
    ([], "the number of heads is not in the weights, and 2 blocks of width 24 are no published size; give --heads N"),
    (["--heads", "5"], "width 24 is not a multiple of 5 heads|hidden_size 24 must be a multiple of num_heads 5"),
    (["--heads", "3", "--classes", "7"], "the label table is for 10 classes and a null class, or 11 classes without one; not for 7"),
    (["--heads", "3", "--decoder-depth", "2"], "--decoder-depth is not for weights of DiT"),
    (["--heads", "3", "sampling_stepz=3"], "'sampling_stepz' is not a key of sampling; did you mean 'sampling_steps'"),
    (["--heads", "3", "sampler=sde"], "evaluation.sampler 'sde' does not"),
    (["--heads", "3", "model.name=DiT-S/4"], "the weights are not those of DiT-S/4"),
])
def test_what_does_not_go_together(saved, tmp_path, options, words):
    text = refused("import-run", saved(network()), tmp_path / "run", "--like", "dit", *options)
    assert any(word in text for word in words.split("|")), text
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize("content, words", [
    (b"nonsense", "not a file of weights"),
    ({"a": torch.zeros(3)}, "there is no 'x_embedder.proj.weight'"),
    ({"epoch": 3, "lr": 0.1}, "holds no state dict; it has epoch, lr"),
    ({"x_embedder.proj.weight": torch.tensor(1.0)}, "weights"),
    ({"x_embedder.proj.weight": torch.zeros(1).expand(10**9, 4, 2, 2)}, "is not stored as the 16,000,000,000 numbers of its shape"),
    ({"x_embedder.proj.weight": torch.zeros(0, 0, 0, 0), "pos_embed": torch.zeros(1, 0, 0), "y_embedder.embedding_table.weight": torch.zeros(0, 0),
      "final_layer.linear.weight": torch.zeros(0, 0)}, "are empty"),
])
def test_files_that_are_no_such_weights(tmp_path, content, words):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert words in refused("import-run", path, tmp_path / "run", "--like", "dit", "--heads", 3)
    assert "no such file" in refused("import-run", tmp_path / "none.pt", tmp_path / "run")
    assert "already" in refused("import-run", path, tmp_path)


def test_a_table_without_a_null_class(saved, tmp_path):
    result = ditscale("import-run", saved(network()), tmp_path / "run", "--like", "dit", "--heads", 3, "--classes", 11)
    config = run_config(RunDir(tmp_path / "run"))
    assert "11, and none for guidance" in result.output and (config.data.classes, config.model.class_dropout_prob) == (11, 0)
    assert config.imported.sampling.guidance_scale == 1


def test_what_is_assumed_of_a_decoder_is_said(saved, tmp_path):
    """MaskDiT's decoder of width 64: 2 heads of the published 32 channels, or those that are stated."""
    torch.manual_seed(0)
    model = MaskedDiT(**SIZES | {"num_classes": 10}, learn_sigma=False, decoder_depth=1, decoder_width=64, decoder_heads=2, null_class="zero", mask_token=True)
    state = {f"model.{key.replace('decoder_embed.', 'decoder_layer.')}": value for key, value in model.state_dict().items()}
    state["model.y_embedder.embedding_table.weight"] = state["model.y_embedder.embedding_table.weight"][:10].T.contiguous()
    path = saved(state)
    said = ditscale("import-run", path, tmp_path / "a", "--heads", 3).output
    assert "decoder: 2 heads (assumed, as the published model has; the weights do not tell: import-run --decoder-heads N)" in said
    assert "decoder: 4 heads (as asked)" in ditscale("import-run", path, tmp_path / "b", "--heads", 3, "--decoder-heads", 4).output
    assert [RunDir(tmp_path / name).read_record()["imported"]["decoder_heads_by"] for name in "ab"] == ["assumed", "as asked"]


def test_latents_of_an_unknown_scale(saved, tmp_path):
    path = saved(network(in_channels=16))
    assert "add data.latent_scale=NUMBER data.latent_shift=NUMBER" in refused("import-run", path, tmp_path / "run", "--like", "dit", "--heads", 3)
    result = ditscale("import-run", path, tmp_path / "run", "--like", "dit", "--heads", 3, "data.latent_scale=1.5305", "data.latent_shift=0.0609")
    assert "scale 1.5305, shift 0.0609" in result.output


def test_latents_are_decoded_by_the_autoencoder_that_is_given(saved, tmp_path, vae_folders):
    path = saved(network(in_channels=4, input_size=4, patch_size=2))
    ditscale("import-run", path, tmp_path / "run", "--like", "dit", "--heads", 3, "sampling_steps=4")
    sampled = ["sample", tmp_path / "run", tmp_path / "x.npz", "--images", 2]
    assert "the imported model makes latents; give vae=FOLDER, the AutoencoderKL that made them" in refused(*sampled)
    assert ditscale(*sampled, f"vae={vae_folders['kl']}").exit_code == 0
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (2, 32, 32, 3)


def test_from_file_to_a_comparison(saved, tmp_path, digits):
    """Sampled, scored twice (the second time taken as it is), compared; and left out of a study's table, with the reason."""
    for seed, name in enumerate(("a", "b")):
        ditscale("import-run", saved(network(seed)), tmp_path / "runs" / name, "--like", "sit", "--heads", 3, "sampling_steps=3")
    made = ditscale("sample", tmp_path / "runs" / "a", tmp_path / "images.npz", "--images", 20)
    assert made.exit_code == 0 and np.load(tmp_path / "images.npz")["arr_0"].shape == (20, 8, 8, 1), made.output
    note = json.loads((tmp_path / "images.npz.json").read_text())
    assert note["passport"]["average"] == "imported" and note["passport"].get("ema_decay") is None and note["passport"]["guidance_scale"] == 1.5
    scoring = [f"extractor_path={digits / 'digits_cnn.safetensors'}", f"reference_path={digits / 'heldout.beton'}", "samples=20", "batch=20"]
    for _ in range(2):
        for name in ("a", "b"):
            done = ditscale("evaluate", tmp_path / "runs" / name, *scoring)
            assert done.exit_code == 0, done.output
    lines = read_lines(tmp_path / "runs" / "a" / "evals.jsonl", "score")
    assert len(lines) == 1 and lines[0]["images_seen"] is None and "train_flops" not in lines[0]
    text = ditscale("compare", tmp_path / "runs" / "a", tmp_path / "runs" / "b").output
    assert "the passports agree" in text
    with pytest.raises(UserError, match="it holds imported weights alone"):
        collect(tmp_path / "runs")


def test_another_sampler_than_the_projects(saved, tmp_path, digits):
    """What only SiT's own sampler reads (sde_norm, sde_last) is dropped; what the user says is kept, and then refused."""
    path, few = saved(network()), ["--like", "sit", "--heads", "3"]
    done = ditscale("import-run", path, tmp_path / "heun", *few, "sampler=heun", "heun_last=heun", "sampling_steps=2")
    assert done.exit_code == 0 and "sampling: heun, 2 steps, heun_last heun" in done.output, done.output
    assert "; as given: sampler, heun_last, sampling_steps)" in done.output
    assert run_config(RunDir(tmp_path / "heun")).imported.sampling.guidance_scale == 1.5
    done = ditscale("sample", path, tmp_path / "x.npz", "--images", 4, *few, "sampler=euler", "sampling_steps=2")
    assert done.exit_code == 0, done.output
    ditscale("import-run", path, tmp_path / "sde", *few, "sampling_steps=2")
    scoring = [f"extractor_path={digits / 'digits_cnn.safetensors'}", f"reference_path={digits / 'heldout.beton'}", "samples=16"]
    done = ditscale("evaluate", tmp_path / "sde", "sampler=[sde,euler]", *scoring)
    lines = read_lines(tmp_path / "sde" / "evals.jsonl", "score")
    assert [json.loads(line["passport"]["sampler_options"] or "{}") for line in lines] == [{"sde_norm": 1.0, "sde_last": "mean"}, {}], done.output
    assert "evaluation.sde_norm is for sampler sde" in refused("sample", tmp_path / "sde", tmp_path / "y.npz", "--images", 4, "sampler=euler", "sde_norm=1")


def test_the_validation_loss_of_imported_weights(saved, tmp_path, digits):
    ditscale("import-run", saved(network()), tmp_path / "run", "--like", "sit", "--heads", 3)
    for _ in range(2):
        done = ditscale("validate", tmp_path / "run", "--data", digits / "heldout.beton", "--draws", 64)
        assert done.exit_code == 0, done.output
    [line] = read_lines(tmp_path / "run" / "evals.jsonl", "score")
    assert line["metric"] == "loss" and line["images_seen"] is None and line["passport"]["average"] == "imported" and line["score"] > 0
    assert "images seen" in done.output and not (tmp_path / "run" / "tb").exists()


def test_a_bare_file_is_sampled_and_scored(saved, tmp_path, digits):
    path = saved(network())
    assert f"`ditscale sample {path} x.npz vae=X 'labels=[a b]' --images 4 --heads 3 --like sit`" in refused(
        "sample", path, "x.npz", "--images", 4, "--heads", 3, "vae=X", "labels=[a b]")
    more = ["--like", "sit", "--heads", "3", "sampling_steps=2"]
    assert ditscale("sample", path, tmp_path / "file.npz", "--images", 16, *more).exit_code == 0
    ditscale("import-run", path, tmp_path / "run", *more)
    ditscale("sample", tmp_path / "run", tmp_path / "run.npz", "--images", 16)
    assert np.array_equal(np.load(tmp_path / "file.npz")["arr_0"], np.load(tmp_path / "run.npz")["arr_0"])
    assert "already" in ditscale("sample", path, tmp_path / "file.npz", "--images", 16, *more).output
    scoring = [f"extractor_path={digits / 'digits_cnn.safetensors'}", f"reference_path={digits / 'heldout.beton'}", "samples=20"]
    assert f"`ditscale evaluate {path} samples=20 --heads 3 --like dit`" in refused("evaluate", path, "samples=20", "--heads", 3)
    done = ditscale("evaluate", path, *more, *scoring)
    assert done.exit_code == 0 and len(read_lines(tmp_path / "weights.pt.evals.jsonl", "score")) == 1, done.output
    assert "--like and --heads are for a file of weights" in refused("sample", tmp_path / "run", "x.npz", "--images", 4, "--like", "dit")


def test_ditscales_own_files_are_of_a_run(hand_run, tmp_path):
    for objective in ("baseline", "mdt"):
        run = hand_run({"objective.name": objective}, name=objective)
        assert ditscale("export", run.path, tmp_path / f"{objective}.safetensors").exit_code == 0
        assert "exported by ditscale from a run" in refused("sample", tmp_path / f"{objective}.safetensors", "x.npz", "--images", 2, "--like", "sit")
        file = run.checkpoints / "images-000000000640" / "ema.safetensors"
        assert f"give its run, {run.path}" in refused("sample", file, "x.npz", "--images", 2)


def test_what_ditscale_wrote_is_not_turned_twice(saved, hand_run, tmp_path):
    path, few = saved(network()), ["--like", "sit", "--heads", 3]
    run = hand_run()                                                           # of flow
    words = {}
    for name in ("turned.safetensors", "turned.pt"):
        assert ditscale("convert", path, tmp_path / name, *few).exit_code == 0
        words[name] = "no longer a project's (sit, turned by convert)"
        ditscale("convert", tmp_path / name, tmp_path / f"again-{name}.pt", "--heads", 3)
        words[f"again-{name}.pt"] = words[name]
    for name in ("run.pt", "run.safetensors"):
        said = ditscale("export", run.path, tmp_path / name).output
        words[name] = "(formulation flow)" if name == "run.pt" else "exported by ditscale"
        assert name != "run.pt" or "but time and outputs are those of formulation flow" in said
    ditscale("convert", path, tmp_path / "as-is.safetensors", "--heads", 3)
    ditscale("convert", tmp_path / "run.safetensors", tmp_path / "of-run.pt")
    words |= {"as-is.safetensors": "give the file that was converted", "of-run.pt": "(formulation flow)"}
    for name, said in words.items():
        assert said in refused("import-run", tmp_path / name, tmp_path / "no", *few)
        assert "written by ditscale" in refused("convert", tmp_path / name, tmp_path / "no.pt", *few)
    assert torch.load(tmp_path / "turned.pt", weights_only=True).keys() == network().keys()   # the released layout, strictly
    DiT(**SIZES, learn_sigma=False).load_state_dict(torch.load(tmp_path / "turned.pt", weights_only=True))
    ditscale("convert", path, tmp_path / "as-is.pt", "--heads", 3)
    assert ditscale("import-run", tmp_path / "as-is.pt", tmp_path / "again", *few).exit_code == 0


def test_convert_says_what_it_takes_a_file_for(saved, tmp_path):
    path = saved(network())
    said = ditscale("convert", path, tmp_path / "x.pt", "--heads", 3).output
    assert "taken as DiT's, numbers as they are" in said and "--like sit or --like repa" in said
    path = saved({"ema": network(), "args": argparse.Namespace(model="DiT-S/4")})
    assert "taken as" not in ditscale("convert", path, tmp_path / "y.pt", "--heads", 3).output


@pytest.mark.parametrize("key, words", [
    ("blocks.0.attn.rel_pos_bias.relative_position_bias_table", "MDT's model is no plain DiT; make a run of it with `ditscale import-run {0} RUN --like mdt`"),
    ("en_inblocks.0.attn.qkv.bias", "MDTv2's model is no plain DiT"), ("decoder_layer.linear.weight", "MaskDiT's model is no plain DiT"),
    ("projectors.0.0.weight", "these are weights of REPA, by their keys; give --like repa")])
def test_convert_knows_others_by_their_keys(saved, tmp_path, key, words):
    path = saved({**network(), key: torch.zeros(3, 3)})
    for like in ([], ["--like", "dit"]):
        assert words.format(path) in refused("convert", path, tmp_path / "x.safetensors", *like)


def test_convert_takes_what_train_scripts_wrote(saved, tmp_path):
    path = saved({"model": {}, "ema": {f"module.{key}": value for key, value in network().items()}, "args": argparse.Namespace(lr=1.0)})
    assert ditscale("convert", path, tmp_path / "as-is.safetensors", "--heads", 3).exit_code == 0
    assert torch.equal(read_weights(tmp_path / "as-is.safetensors").state["pos_embed"], network()["pos_embed"])
    assert ditscale("convert", path, tmp_path / "sit.safetensors", "--heads", 3, "--like", "sit").exit_code == 0
    last = read_weights(tmp_path / "sit.safetensors").state["final_layer.linear.bias"]
    assert torch.equal(last, -network()["final_layer.linear.bias"].unflatten(0, (16, 2))[:, 0])
