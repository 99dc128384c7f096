"""Contrastive flow matching (arXiv 2506.05350): the output is pushed away from the training target of another image."""

from typing import Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.objectives.auxiliary.kind import Grouped


class Contrastive(Grouped):
    """``-mean ||F - F_other||^2``, F what the loss compares and F_other the target that the next image of the group has at this image's level.

    Under flow F is the velocity, as in the paper, also with ``prediction: x``, whose loss is the velocity's. Under edm it is the network's own
    target of unit variance, (x_0 - c_skip x) / c_out [choice]. Under ddpm it is the noise, which says nothing about the other image: refused. The
    stream's order is random, so the next image is a random one; the released code draws one from the local batch. Images whose label was dropped
    count too, as by default there [C].
    """

    name: Literal["contrastive"]
    weight: float = Field(0.05, gt=0, lt=1)                                    # [C]; from 1 on the loss has no minimum

    color = "#12806f"
    dark_color = "#43b8a4"
    row = {"method": "contrastive", "added to the loss": "minus the squared distance to another image's target", "read from": "the output",
           "published": "helps class-conditional training, not text to image [2]",
           "caveat": "the total loss is lower by construction: compare scores or the validation loss; not under ddpm"}

    def check(self, config):
        if config.formulation.learn_sigma:
            raise UserError(f"objective.with contrastive under formulation {config.formulation.name}: its target is the noise, which says nothing about "
                            "the other image; use flow or edm")

    def loss(self, seen):
        t = seen.noised.t
        clean, noise = (x.unflatten(0, (-1, self.group)).roll(-1, dims=1).flatten(0, 1) for x in (seen.clean, seen.noised.noise))
        noisy = seen.formulation.add_noise(clean, noise, t)
        target = seen.formulation.compared(seen.formulation.network_output(clean, noise, noisy, t), noisy, t)
        return -(seen.formulation.compared(seen.output, seen.noised.noisy, t) - target).square().mean()
