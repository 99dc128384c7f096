"""MDT v1 and v2: outputs of both passes, what goes into the side block and comes out, all loss terms, gradients, guided DDIM."""

import re
from unittest import mock

import torch
import torch.nn.functional as F
from dit import tanh_cdf
from reference import LOOSE, TIGHT, Row, as_given, gradient_rows, load, peer_model

from ditscale.diffusion.ddpm_options import TRAIN_STEPS
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.samplers import sample
from ditscale.models.masking import keep_lowest
from ditscale.objectives import MdtConfig
from ditscale.objectives.mdt.objective import MaskedDiffusion
from ditscale.objectives.objective import CleanBatch
from ditscale.objectives.variant import kept_tokens

TABLE = "rel_pos_bias.relative_position_bias_table"
UNREAD = 3                                                                     # rows of their tables, without a gradient
SAMPLER = re.compile(r"sample_ddim(?P<steps>\d+)_power_cosine")


def compare(path):
    """Rows for one file."""
    file = load(path)
    _, _, _, classes, _, _, heads, decoder_depth, version = file["dims"].tolist()
    peer = peer_model("mdt", file, heads, {"decoder_depth": decoder_depth} if version == 1 else {})
    yield Row("noisy", peer.formulation.add_noise(file["images"], file["noise"], file["timesteps"]), file["noisy"], TIGHT)
    yield from passes(peer, file)
    with mock.patch.object(torch.special, "ndtr", tanh_cdf):                   # theirs at timestep 0, where a file has it
        yield from losses(peer, file, classes)
    yield from samples(peer, file, classes)


def passes(peer, file):
    """The network at their noisy images; the side block is looked at on the way."""
    scores, seen = file["mask_scores"], []
    kept = keep_lowest(scores, kept_tokens(scores.shape[1], as_given(file["mask_ratio"])))
    inputs = (*peer.formulation.model_inputs(file["noisy"], file["timesteps"]), file["labels"])
    yield Row("output_full", peer.model(*inputs), file["output_full"], TIGHT)
    hook = peer.model.side_block[0].register_forward_hook(lambda block, given, output: seen.extend((given[0], output)))
    yield Row("output_masked", peer.model(*inputs, kept=kept), file["output_masked"], TIGHT)
    hook.remove()
    yield Row("side_input", seen[0], file["side_input"], TIGHT)
    yield Row("side_output", seen[1], file["side_output"], TIGHT)


def losses(peer, file, classes):
    """ditscale's objective with one noise for both passes, as the file has it: by image, and the gradient over all of them."""
    scores, images = file["mask_scores"], file["images"]
    options = MdtConfig(name="mdt", mask_ratio=as_given(file["mask_ratio"]), shared_draws=True)
    objective = MaskedDiffusion(peer.formulation, images.shape[1:], num_classes=classes, class_dropout_prob=0.0, images=1, seed=0,
                                tokens=scores.shape[1], options=options)
    draws = {"noise": file["noise"], "noise level": (file["timesteps"][:, None] + 0.5).double() / TRAIN_STEPS,
             "label drop": torch.ones(len(images), 1), "token mask": scores}

    def terms(rows):
        batch = CleanBatch(images[rows], file["labels"][rows])
        return objective(peer.model, batch, {name: values[rows] for name, values in draws.items()}).losses

    tolerance = LOOSE if (file["timesteps"] == 0).any() else TIGHT             # see ``dit.losses``
    alone = [terms(slice(i, i + 1)) for i in range(len(images))]
    for one in ("full", "masked"):
        mse, vb = (torch.stack([of[f"generative_{one}_{name}"] for of in alone]) for name in ("mse", "vb"))
        for name, values in (("mse", mse), ("vb", vb), ("loss", mse + vb)):
            yield Row(f"{one}_{name}", values, file[f"{one}_{name}"], tolerance)
    peer.model.requires_grad_(True)
    for row in gradient_rows(peer.model, sum(terms(slice(None)).values()), file, ours):
        yield row._replace(ours=F.pad(row.ours, (0, 0, 0, UNREAD))) if row.quantity.endswith(TABLE) else row
    peer.model.requires_grad_(False)


def ours(name):
    return name.replace("sideblocks.", "side_block.").replace(TABLE, "relative_bias.table")


def samples(peer, file, classes):
    for name in file:
        if found := SAMPLER.fullmatch(name):
            guided = Guided(peer.model, file["cfg_scale"].item(), classes, channels="first3", schedule="power_cosine",
                            power=file["scale_pow"].item(), noise_share=peer.formulation.noise_share)
            yield Row(name, sample(guided, peer.formulation, file["start_noise"], file["sample_labels"], sampler="ddim",
                                   steps=int(found["steps"]), respacing="ddim"), file[name], TIGHT)
