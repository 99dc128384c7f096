"""SiT: both interpolants' noisy samples, targets, outputs and losses, the ODE and the SDE in all its forms.

SiT's time runs the other way: its t is 1 - t here, and its velocities have the other sign.
"""

import re

from reference import TIGHT, Row, given_noise, image_means, load, peer_model

from ditscale.diffusion.formulation import per_image
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample

INTERPOLANTS = {"linear": "linear", "gvp": "cosine"}
LAST = {"Mean": "mean", "Euler": "velocity", "Tweedie": "tweedie"}
SDE = re.compile(r"sde_(?P<form>\w+?)_norm(?P<norm>[\d.]+)_last(?P<last>\w+)")


def compare(path):
    """Rows for one file, those of each interpolant in turn."""
    file = load(path)
    for theirs, ours in INTERPOLANTS.items():
        peer = peer_model("sit", file, int(file["dims"][6]), interpolant=ours)
        own = {name.removeprefix(f"{theirs}_"): values for name, values in file.items() if name.startswith(f"{theirs}_")}
        for name, values in (*network(peer, file, own), *ode(peer, file), *sde(peer, file, own)):
            yield Row(f"{theirs}: {name}", values, own[name], TIGHT)


def network(peer, file, own):
    """The noisy sample, the target, the output at SiT's own noisy sample, and the loss of each image."""
    flow, clean, noise, t = peer.formulation, file["data"], file["noise"], 1 - file["t"]
    of_clean, of_noise = flow.rates(t)
    yield "xt", flow.add_noise(clean, noise, t)
    yield "ut", -(per_image(of_clean) * clean + per_image(of_noise) * noise)
    output = peer.model(*flow.model_inputs(own["xt"], t), file["labels"])
    yield "model_output", -output
    yield "loss", image_means(flow.loss(output, clean, noise, t)["mse"])


def ode(peer, file):
    yield "ode_euler", drawn(peer, file, sampler="euler")
    yield "ode_euler_cfg", drawn(peer, file, file["cfg_scale"].item(), sampler="euler")
    yield "ode_heun2", drawn(peer, file, sampler="heun", heun_last="heun")


def sde(peer, file, own):
    """Every form, norm and last step that the file holds."""
    for name in own:
        if found := SDE.fullmatch(name):
            with given_noise(file["step_noise"]):
                yield name, drawn(peer, file, sampler="sde", seed=0, positions=file["sample_labels"], sde_diffusion=found["form"],
                                  sde_norm=float(found["norm"]), sde_last=LAST[found["last"]])


def drawn(peer, file, scale=1.0, **options):
    guided = Guided(peer.model, scale, int(file["dims"][3]), channels="first3")
    return sample(guided, peer.formulation, file["start_noise"], file["sample_labels"], steps=len(file["step_noise"]), **options)
