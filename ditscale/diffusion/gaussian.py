"""Closed-form references: for Gaussian data the optimal network and the probability-flow ODE's end points are known exactly.

Tests and ``benchmarks/convergence.py`` measure samplers against it.
"""

import torch
from torch import Tensor

MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=torch.float64)


def gaussian_network(formulation, mean: Tensor = MEAN):
    """The network with optimal raw output for pixels N(mean, COVARIANCE) over the channels, called as ``(x, t, y)``.

    It inverts ``model_inputs`` to find the level (one for the batch), computes E[x_0 | x] and expresses it as the formulation's
    output. fp64, so that rounding does not hide the order of a sampler.
    """
    eye = torch.eye(len(mean), dtype=torch.float64)

    def model(x, time, y):
        x, t = formulation.from_inputs(x, time[:1])
        signal, spread = formulation.signal_and_spread(t.item())
        inverse = torch.linalg.inv(signal**2 * COVARIANCE + spread**2 * eye)
        whitened = torch.einsum("cd,bdhw->bchw", inverse, x - signal * mean[:, None, None])
        clean = mean[:, None, None] + signal * torch.einsum("cd,bdhw->bchw", COVARIANCE, whitened)
        return formulation.network_output(clean, spread * whitened, x, t)     # E[n | x], also at spread 0

    return model


def ode_map(formulation, noise: Tensor) -> Tensor:
    """The exact probability-flow ODE's end points for standard normal ``noise`` (B, C, S, S): along each eigenvector of the
    covariance, a point keeps its number of standard deviations from the mean."""
    values, vectors = torch.linalg.eigh(COVARIANCE)
    signal, spread = formulation.signal_and_spread(formulation.noisiest)
    begun = formulation.sampling_start(formulation.noisiest) * noise - signal * MEAN[:, None, None]
    scale = torch.sqrt(values / (signal**2 * values + spread**2))
    matrix = vectors @ torch.diag(scale) @ vectors.T
    return MEAN[:, None, None] + torch.einsum("cd,bdhw->bchw", matrix, begun)
