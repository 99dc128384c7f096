"""ODE samplers: integrate a formulation's probability-flow ODE from noise to a clean image.

Heun is EDM's second-order scheme (arXiv 2206.00364, Alg. 1) with a plain Euler step at the end. ``nfe.py`` says
what each costs.
"""

import torch
from torch import Tensor

from ditscale.diffusion.formulation import Formulation


@torch.inference_mode()
def sample_ode(model, formulation: Formulation, noise: Tensor, labels: Tensor, *, sampler: str, steps: int) -> Tensor:
    """Images (B, C, S, S) in fp32 from standard normal ``noise`` of that shape.

    Args:
        model: called as ``model(x, t, y)``; wrap it in ``Guided`` for guidance.
        sampler: ``heun`` or ``euler``.
    """
    levels = formulation.sampling_levels(steps).tolist()

    def slope(x: Tensor, level: float) -> Tensor:
        t = torch.full((len(x),), level, device=x.device)
        return formulation.slope(model(*formulation.model_inputs(x, t), labels), x, t)

    x = noise * levels[0]
    for here, there in zip(levels[:-1], levels[1:]):
        first = slope(x, here)
        ahead = x + (there - here) * first
        if sampler == "heun" and there > 0:
            ahead = x + (there - here) * 0.5 * (first + slope(ahead, there))
        x = ahead
    return x
