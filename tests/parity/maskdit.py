"""MaskDiT: outputs with and without masks, both terms of its loss, gradients, and EDM's Heun sampler."""

import re

import torch
from reference import TIGHT, Row, as_given, gradient_rows, load, peer_model

from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample
from ditscale.models.masking import is_kept, keep_lowest
from ditscale.objectives import MaskedConfig
from ditscale.objectives.masked.objective import Masked
from ditscale.objectives.objective import CleanBatch
from ditscale.objectives.variant import kept_tokens

SAMPLER = re.compile(r"sample_heun(?P<steps>\d+)(?P<cfg>_cfg)?")
DROPPED = 0.5                                                                  # any probability: draws below it are dropped labels


def compare(path):
    """Rows for one file."""
    file = load(path)
    _, patch, _, classes, _, _, heads, _, _, decoder_heads = file["dims"].tolist()
    peer = peer_model("maskdit", file, heads, {"decoder_heads": decoder_heads})
    ratio, edm, tokens = as_given(file["mask_ratio"]), peer.formulation, file["mask_scores"].shape[1]
    draws = given(file, edm)
    kept = keep_lowest(file["mask_scores"], kept_tokens(tokens, ratio))
    yield Row("mask", (~is_kept(kept, tokens)).float(), file["mask"], 0.0)
    yield Row("sigma", edm.level(draws["noise level"][:, 0]), file["sigma"], TIGHT)
    labels = file["labels"].masked_fill(file["label_is_null"], classes)
    noisy = edm.add_noise(file["images"], file["noise"], file["sigma"])
    for name, places in (("D_masked", kept), ("D_unmasked", None)):
        output = peer.model(*edm.model_inputs(noisy, file["sigma"]), labels, kept=places)
        yield Row(name, edm.denoised(output, noisy, file["sigma"]), file[name], TIGHT)
    yield from losses(peer, file, draws, ratio, patch, classes)
    yield from samples(peer, file, classes)


def given(file, edm):
    """The draws with which ditscale's objective has the file's levels, noise, masks and dropped labels."""
    normal = (file["sigma"].double().log() - edm.p_mean) / edm.p_std
    uniform = torch.special.ndtr(normal) - 2.0**-25                            # ``Edm.level`` adds half a cell
    return {"noise": file["noise"], "noise level": uniform[:, None], "token mask": file["mask_scores"],
            "label drop": (~file["label_is_null"]).float()[:, None]}


def losses(peer, file, draws, ratio, patch, classes):
    """ditscale's objective on each image alone, which gives their loss by image, and its gradient on all of them."""
    images, labels, weight = file["images"], file["labels"], as_given(file["mae_loss_coef"])

    def terms(rows, mask_ratio, weight):
        objective = Masked(peer.formulation, images.shape[1:], num_classes=classes, class_dropout_prob=DROPPED, images=1,
                           options=MaskedConfig(name="masked", mask_ratio=mask_ratio, reconstruction_weight=weight),
                           patch_size=patch, tokens=draws["token mask"].shape[1])
        own = {name: values[rows] for name, values in draws.items()}
        return objective(peer.model, CleanBatch(images[rows], labels[rows]), own).losses

    alone = [slice(i, i + 1) for i in range(len(images))]
    parts = [terms(row, ratio, 1.0) for row in alone]
    yield Row("generative", torch.stack([part["generative"] for part in parts]), file["generative"], TIGHT)
    yield Row("mae", torch.stack([part["reconstruction"] for part in parts]), file["mae"], TIGHT)
    for name, mask_ratio in (("loss", ratio), ("loss_unmasked", 0.0)):
        yield Row(name, torch.stack([sum(terms(row, mask_ratio, weight).values()) for row in alone]), file[name], TIGHT)
    peer.model.requires_grad_(True)
    yield from gradient_rows(peer.model, sum(terms(slice(None), ratio, weight).values()), file, ours)
    peer.model.requires_grad_(False)


def ours(name):
    return name.removeprefix("model.").replace("decoder_layer.", "decoder_embed.")


def samples(peer, file, classes):
    for name in file:
        if found := SAMPLER.fullmatch(name):
            guided = Guided(peer.model, file["cfg_scale"].item() if found["cfg"] else 1.0, classes)
            yield Row(name, sample(guided, peer.formulation, file["start_noise"], file["sample_labels"], sampler="heun",
                                   steps=int(found["steps"])), file[name], TIGHT)
