"""PF-ODE pairs: the same image at a lower noise level on the same trajectory, for objectives that compare two views.

Along the one-sample trajectory (the probability-flow ODE of a data set of one image) the clean image and the noise stay what they
are, so both points come from the same pair: on flow and edm they lie on a straight line. Along the learned ODE the network says
where the trajectory of the whole data goes.
"""

import torch
from torch import Tensor

from ditscale.diffusion.arithmetic import per_image
from ditscale.diffusion.formulation import Formulation


def paired(formulation: Formulation, clean: Tensor, noise: Tensor, t_high: Tensor, t_low: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy samples at both levels (B,), ``t_low`` at most ``t_high``, on the trajectory that ``noise`` spans."""
    return formulation.add_noise(clean, noise, t_high), formulation.add_noise(clean, noise, t_low)


def lower_level(formulation: Formulation, rule: str, t: Tensor, uniform: Tensor, ratio: float) -> Tensor:
    """Levels (B,) at or below ``t`` for the cleaner view of a pair, in the formulation's own unit.

    ``sigma_min``: the cleanest level there is; ``same``: t; ``uniform_below``: uniform between 0 and t, from draws (B,);
    ``ratio``: that share of t. None is cleaner than the cleanest.
    """
    if rule == "same":
        return t
    share = {"sigma_min": torch.zeros_like(uniform), "uniform_below": uniform, "ratio": torch.full_like(uniform, ratio)}[rule]
    lower = (share.double() * t).clamp(min=formulation.cleanest)
    return torch.minimum(lower.to(t.dtype), t)


def shared_noise_point(formulation: Formulation, noisy: Tensor, noise: Tensor, t_high: Tensor, t_low: Tensor) -> Tensor:
    """The same lower point from a noisy sample whose noise is known. Pure noise (flow at t = 1) shows none."""
    signal, spread = (per_image(c) for c in formulation.coefficients(t_high))
    return formulation.add_noise((noisy - spread * noise) / signal, noise, t_low)


@torch.no_grad()
def learned_point(model, formulation: Formulation, noisy: Tensor, labels: Tensor, t_high: Tensor, t_low: Tensor, *,
                  steps: int = 1) -> Tensor:
    """The lower point on the trajectory that the model has learned: ``steps`` DDIM steps, each image between its own two levels.

    A DDIM step goes to ``signal x_0 + spread n`` of the next level with the predicted pair; it is of first order, and exact where
    the prediction does not change on the way. On edm and on flow's linear interpolant it is the Euler step.
    """
    x, here = noisy, t_high
    for step in range(1, steps + 1):
        there = t_low if step == steps else formulation.between(t_high, t_low, step / steps)
        clean, noise = formulation.predictions(model(*formulation.model_inputs(x, here), labels), x, here)
        x, here = formulation.add_noise(clean, noise, there), there
    return x
