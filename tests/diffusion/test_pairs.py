"""PF-ODE pairs: shared noise, and the learned ODE."""

import torch

from ditscale.diffusion.gaussian import COVARIANCE, gaussian_network
from ditscale.diffusion.pairs import learned_point, paired, shared_noise_point

LEVELS = {"ddpm": ([900, 500, 3], [100, 0, 3]), "edm": ([40.0, 1.0, 0.5], [0.002, 0.1, 0.5]),
          "flow": ([0.9, 0.5, 0.2], [0.1, 0.0, 0.2])}


def levels_of(formulation):
    return [torch.tensor(values) for values in LEVELS[formulation.name]]


def test_both_points_share_image_and_noise(formulation):
    clean, noise = torch.randn(2, 3, 2, 4, 4)
    high, low = levels_of(formulation)
    above, below = paired(formulation, clean, noise, high, low)
    assert torch.equal(below, formulation.add_noise(clean, noise, low))
    assert torch.allclose(shared_noise_point(formulation, above, noise, high, low), below, atol=2e-4)
    assert torch.allclose(above[2], below[2], atol=1e-6)                       # equal levels, equal points


def test_predictions_undo_the_noising(formulation):
    """The optimal output for one known image gives that image and its noise back."""
    clean, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    high, _ = levels_of(formulation)
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


def test_learned_ode_moves_points_as_the_exact_one_does(formulation):
    """Two levels of the exact trajectory of Gaussian data: from noise n, the point at any level is known."""
    noise = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def exact(t):
        """Where the trajectory of ``noise`` is at level t, for data N(0, covariance): a signed rescaling along eigenvectors."""
        values, vectors = torch.linalg.eigh(COVARIANCE)
        signal, spread = (c.double() for c in formulation.coefficients(t))
        scale = torch.sqrt(signal[:, None]**2 * values + spread[:, None]**2)
        return torch.einsum("ce,be,de,bdhw->bchw", vectors, scale, vectors, noise)

    network = gaussian_network(formulation, mean=torch.zeros(2, dtype=torch.float64))
    high, low = levels_of(formulation)
    for i in range(2):                                                         # one level at a time: the network is for one level
        above, below = high[i].repeat(3), low[i].repeat(3)
        if formulation.name != "ddpm":
            above, below = above.double(), below.double()
        errors = [(learned_point(network, formulation, exact(above), torch.zeros(3), above, below, steps=steps)
                   - exact(below)).abs().max() for steps in (10, 40)]
        assert errors[1] < 0.1 and errors[1] < 0.4 * errors[0], errors


def test_levels_between_are_levels(formulation):
    high, low = levels_of(formulation)
    middle = formulation.between(high, low, 0.5)
    assert ((middle <= high * 1.00001) & (middle >= low * 0.99999)).all() and middle.dtype == high.dtype
    assert torch.allclose(formulation.between(high, low, 0.0).double(), high.double(), rtol=1e-5)
