"""DiT: outputs, both terms of the loss under both schedules, respaced timesteps, ancestral sampling and DDIM."""

import math
import re
from unittest import mock

import torch
from reference import LOOSE, TIGHT, Row, given_noise, image_means, load, peer_model

from ditscale.diffusion.ddpm_options import ddpm_levels
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample

SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
EXACT_CDF = 0.1                                                                # what the exact normal CDF may change at timestep 0
SAMPLER = re.compile(r"(?P<sampler>ddpm|ddim)(?P<steps>\d+)(?P<even>_even)?(_eta(?P<eta>[\d.]+))?(?P<cfg>_cfg_first3)?(_first3)?"
                     r"(?P<still>_no_step_noise)?")


def compare(path):
    """Rows for one file."""
    file = load(path)
    heads = int(file["dims"][6])
    peer = peer_model("dit", file, heads)
    images, noise, timesteps = (file[name] for name in ("images", "noise", "timesteps"))
    noisy = peer.formulation.add_noise(images, noise, timesteps)
    yield Row("noisy", noisy, file["noisy"], TIGHT)
    yield Row("output", network(peer, noisy, file), file["output"], TIGHT)
    for theirs, ours in SCHEDULES.items():
        yield from losses(peer_model("dit", file, heads, schedule=ours), file, theirs)
    yield Row("timesteps_250", torch.tensor(ddpm_levels(250)[-2::-1]), file["timesteps_250"], 0.0)
    for name in file:
        if found := SAMPLER.fullmatch(name):
            yield Row(name, drawn(peer, file, found), file[name], LOOSE if found["sampler"] == "ddpm" else TIGHT)


def network(peer, noisy, file):
    return peer.model(*peer.formulation.model_inputs(noisy, file["timesteps"]), file["labels"])


def losses(peer, file, schedule):
    """At timestep 0 once with their approximation of the normal CDF, and once as it is here, exact."""
    ddpm, images, noise, timesteps = peer.formulation, file["images"], file["noise"], file["timesteps"]
    output, mse, vb = network(peer, ddpm.add_noise(images, noise, timesteps), file), file[f"{schedule}_mse"], file[f"{schedule}_vb"]
    terms = {name: image_means(values) for name, values in ddpm.loss(output, images, noise, timesteps).items()}
    with mock.patch.object(torch.special, "ndtr", tanh_cdf):
        approximate = image_means(ddpm.loss(output, images, noise, timesteps)["vb"])
    first = timesteps == 0
    yield Row(f"{schedule}_mse", terms["mse"], mse, TIGHT)
    yield Row(f"{schedule}_vb at t > 0", terms["vb"][~first], vb[~first], TIGHT)
    if first.any():
        # LOOSE: where the normal is narrow, the mass of a grey level is a small difference of two values near 1, in fp32
        yield Row(f"{schedule}_vb at t = 0, with a tanh for the normal CDF", approximate[first], vb[first], LOOSE)
        yield Row(f"{schedule}_vb at t = 0, with the exact normal CDF", terms["vb"][first], vb[first], EXACT_CDF)


def tanh_cdf(x):
    """The approximation to the normal CDF behind GELU's tanh form."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def drawn(peer, file, found):
    """The images of a sampler's name: its steps, its spacing, eta, guidance, and whether the steps add noise."""
    start, labels, steps = file["start_noise"], file["sample_labels"], int(found["steps"])
    options = {"sampler": found["sampler"], "steps": steps, "eta": float(found["eta"] or 0)}
    if found["sampler"] == "ddim" and not found["even"]:
        options["respacing"] = "ddim"
    guided = Guided(peer.model, file["cfg_scale"].item() if found["cfg"] else 1.0, int(file["dims"][3]), channels="first3")
    with given_noise(start.new_zeros(steps, *start.shape) if found["still"] else file["step_noise"]):
        return sample(guided, peer.formulation, start, labels, seed=0, positions=labels, **options)
