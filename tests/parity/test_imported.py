"""Each peer's file, imported as it is, samples what the peer's own code sampled: through the maker that ``ditscale sample`` takes."""

import argparse
import json
from itertools import chain

import pytest
import torch
from click.testing import CliRunner
from reference import FOLDER, LOOSE, TIGHT, as_given, given_noise, load, relative

from ditscale.cli import main
from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.evaluation.sampling.sampleset import settings_of
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.weights import run_config

DDIM = {"sampler": "ddim", "sampling_steps": 10, "respacing": "ddim", "guidance_channels": "first3"}
SIT_ODE = {"sampler": "euler", "sampling_steps": 12}
ODE = {"sampler": "euler", "sampling_steps": 10, "guidance_interval": None}
NO, CFG = {"guidance_scale": 1.0}, {"guidance_scale": "cfg_scale"}
LAST = {"Mean": "mean", "Euler": "velocity", "Tweedie": "tweedie"}


def sdes(path):
    """SiT's Euler-Maruyama in each form that the file holds; of form sigma, norm 1 and last step Mean the run has all."""
    kinds = [(form, norm, last) for form in ("sigma", "sin2") for norm in (1.0, 0.5) for last in LAST if norm == 1 or last != "Tweedie"]
    changed = {f"{path}_sde_{form}_norm{norm}_last{last}": {"sde_diffusion": form, "sde_norm": norm, "sde_last": LAST[last]} for form, norm, last in kinds}
    changed[f"{path}_sde_sigma_norm1.0_lastMean"] = {}
    return {name: {"sampling_steps": 12, **NO, **changes} for name, changes in changed.items()}


# npz, its options of import-run, and each sampler's result with what differs from the peer's own sampling, which the run has
CASES = {
    "dit_a": (["--like", "dit"], {"ddpm10": {"sampling_steps": 10, **NO}, "ddpm10_cfg_first3": {"sampling_steps": 10, **CFG},
                                  "ddim10_cfg_first3": {**DDIM, **CFG}, "ddim10_eta0.6": {**DDIM, **NO, "eta": 0.6},
                                  "ddim250_even_cfg_first3": {**DDIM, **CFG, "sampling_steps": 250, "respacing": "even"},
                                  "ddpm250_cfg_first3_no_step_noise": CFG}),
    "sit_a": (["--like", "sit"], {"linear_ode_euler": {**SIT_ODE, **NO}, "linear_ode_euler_cfg": {**SIT_ODE, **CFG},
                                  "linear_ode_heun2": {**SIT_ODE, **NO, "sampler": "heun", "heun_last": "heun"},
                                  **sdes("linear")}),
    "sit_a gvp": (["--like", "sit", "formulation.interpolant=cosine"], {"gvp_ode_euler_cfg": {**SIT_ODE, **CFG},
                                                                         **sdes("gvp")}),
    "repa_a": ([], {"euler": {**ODE, **NO}, "euler_heun": {**ODE, **NO, "sampler": "heun"},
                    "euler_cfg_interval": {**ODE, **CFG, "guidance_interval": "guidance_high"},
                    "sde": {"sampling_steps": 10, **NO}, "sde_cfg_interval": {"sampling_steps": 10, **CFG, "guidance_interval": "guidance_high"}}),
    "maskdit_a": (["--decoder-heads", "DECODER_HEADS"], {"sample_heun18": {"sampling_steps": 18, **NO},
                                                         "sample_heun18_cfg": {"sampling_steps": 18, **CFG}}),
    "mdt_v1_a": (["--like", "mdt", "--decoder-depth", "DECODER_DEPTH"], {"sample_ddim10_power_cosine": {**DDIM, **CFG}}),
    "mdt_v2_a": ([], {"sample_ddim10_power_cosine": {**DDIM, **CFG}}),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """``imported(case)``: the npz's arrays, and the run that import-run makes of its weights as the peer's script saves them."""
    done = {}

    def make(case):
        if case not in done:
            path = FOLDER / f"{case.split()[0]}.npz"
            if not path.exists():
                pytest.skip(f"no {path.name} in {FOLDER}; PARITY_DATA names the folder")
            folder, file = tmp_path_factory.mktemp("peer"), load(path)
            torch.save(as_saved(case, file["weights"]), folder / "0000100.pt")
            dims = file["dims"].tolist()
            given = {"DECODER_HEADS": str(dims[-1]), "DECODER_DEPTH": str(dims[7]) if len(dims) > 7 else ""}
            heads = [] if case.startswith("mdt") else ["--heads", str(dims[6])]      # MDT's tables tell
            words = [given.get(word, word) for word in CASES[case][0]]
            result = CliRunner().invoke(main, ["import-run", str(folder / "0000100.pt"), str(folder / "run"), *heads, *words])
            assert result.exit_code == 0, result.output
            done[case] = file, RunDir(folder / "run"), result.output
        return done[case]
    return make


def as_saved(case, weights):
    """DiT's, SiT's, REPA's and MaskDiT's train.py keep both networks, the optimizer and the arguments; MDT's a bare state dict."""
    if case.startswith("mdt_v1"):
        return weights
    if case.startswith("mdt_v2"):
        return {f"module._orig_mod.{name}": value for name, value in weights.items()}
    wrapped = {f"_orig_mod.{name}": torch.zeros_like(value) for name, value in weights.items()}
    return {"model": wrapped, "ema": weights, "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}},
            "args": argparse.Namespace(results_dir="/home/somebody/results", global_batch_size=256, model="anything")}


@pytest.mark.parametrize("case, name", chain.from_iterable([(case, name) for name in CASES[case][1]] for case in CASES))
def test_the_peers_samples(imported, vae_folders, case, name):
    file, run, _ = imported(case)
    changes = {key: as_given(file[value]) if value in ("cfg_scale", "guidance_high") else value for key, value in CASES[case][1][name].items()}
    if changes.get("guidance_interval"):
        changes["guidance_interval"] = [0.0, changes["guidance_interval"]]
    config = run_config(run)
    settings = settings_of(config, {**changes, "vae": vae_folders["kl"]}, "test")
    maker = ImageMaker(config, settings, "cpu")
    maker.load(choose_weights(run, None, settings.average)[0])
    labels = file["sample_labels"]
    noise = file.get("step_noise")
    with given_noise(noise.new_zeros(250, *labels.shape, *noise.shape[2:]) if "no_step_noise" in name else noise):
        made = maker.from_noise(file["start_noise"], labels, 0, labels)
    assert relative(made, file[name]) < (LOOSE if "ddpm" in name else TIGHT)


@pytest.mark.parametrize("case", CASES)
def test_what_is_known_and_what_is_not(imported, case):
    _, run, said = imported(case)
    record = run.read_record()
    assert "train" not in record["config"] and "path" not in record["config"]["data"] and "train_flops_per_image" not in record["cost"]
    assert "images seen: unknown (set with --images-seen N); training cost: unknown" in said and record["config"]["imported"]["images_seen"] is None
    decoder = {"maskdit_a": "heads (as asked)", "mdt_v1_a": "blocks (as asked)"}.get(case)
    assert decoder in said if decoder else "decoder" not in said
    assert record["imported"]["sampling_source"] in said and "/home/somebody" not in json.dumps(record)
    assert [path.name for path in run.checkpoints.iterdir() if path.is_dir()] == ["images-000000000000"]
    assert run.status()["state"] == "done" and "not known" in run.status()["reason"]
