"""What the raw output of a network stands for."""

import torch

LEVELS = {"ddpm": [900, 500, 3], "edm": [40.0, 1.0, 0.5], "flow": [0.9, 0.5, 0.2]}


def test_predictions_undo_the_noising(formulation):
    """The optimal output for one known image gives that image and its noise back."""
    clean, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    high = torch.tensor(LEVELS[formulation.name])
    high = high if formulation.name == "ddpm" else high.double()
    noisy = formulation.add_noise(clean, noise, high)
    if formulation.name == "flow":
        a, s = (rate[:, None, None, None] for rate in formulation.rates(high))
        output = a * clean + s * noise
    elif formulation.name == "edm":
        total = (high**2 + 0.25)[:, None, None, None].double()
        output = (clean - 0.25 / total * noisy) / (0.5 * high[:, None, None, None] / total.sqrt())
    else:
        output = torch.cat([noise, noise], dim=1)
    x0, n = formulation.predictions(output, noisy, high)
    assert torch.allclose(x0, clean, atol=1e-5) and torch.allclose(n, noise, atol=1e-5)
