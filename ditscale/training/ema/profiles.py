"""Profiles of averages: constant decays, and EDM2's power-function lengths, from which any other length can be rebuilt.

EDM2 (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"), Sec. 3: weight the parameters at
training time t by a power t^gamma instead of an exponential. Its length is sigma_rel, the standard deviation of that profile
over the training time; 0.05 to 0.10 are usual. Snapshots of a few of these averages can be combined into one of any length, at any earlier
time, after training. Time is images seen. No torch needed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ditscale.config import TrainConfig

MAIN = "ema"
LONGEST = 12 ** -0.5                                                           # sigma_rel for gamma = 0, the plain mean


def decays(train: TrainConfig) -> dict[str, Callable[[int, int], float]]:
    """Each average of a run by name, with its decay as a function of the images seen before and after a step."""
    def constant(decay: float):
        return lambda before, after: decay

    def power(length: float):
        exponent = gamma_of(length) + 1
        return lambda before, after: (before / after) ** exponent             # 0 in the first step, so it starts equal to the weights

    return {MAIN: constant(train.ema_decay), **{f"{MAIN}-decay-{decay:g}": constant(decay) for decay in train.ema_decays},
            **{track_name(length): power(length) for length in train.ema_lengths}}


def track_name(length: float) -> str:
    return f"{MAIN}-power-{length:g}"


def gamma_of(length: float) -> float:
    """The exponent of a relative length: sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for gamma >= 0."""
    inverse = length ** -2
    return max(root.real for root in np.roots([1, 7, 16 - inverse, 12 - inverse]))


@dataclass(frozen=True)
class Profile:
    """The weight of each time t in an average over [0, images]: (gamma + 1) t^gamma / images^(gamma + 1)."""

    images: float
    gamma: float

    def dot(self, other: "Profile") -> float:
        """The integral of the product over the time that both cover."""
        both, overlap = self.gamma + other.gamma + 1, min(self.images, other.images)
        scale = (self.gamma + 1) * (other.gamma + 1) / both
        return scale * (overlap / self.images) ** (self.gamma + 1) * (overlap / other.images) ** (other.gamma + 1) / overlap


def combine(snapshots: list[Profile], target: Profile) -> tuple[np.ndarray, float]:
    """Weights x of snapshots such that sum x_i p_i is closest to the target's profile; and the relative error.

    Least squares over all of [0, images], then divided by their sum, as in EDM2's code: an average of equal weights must be these
    weights, and an inexact profile would otherwise scale the whole network. Some weights are negative.
    """
    gram = np.array([[first.dot(second) for second in snapshots] for first in snapshots])
    towards = np.array([snapshot.dot(target) for snapshot in snapshots])
    scale = np.sqrt(np.diag(gram))                                             # profiles of unit norm are better conditioned
    weights = np.linalg.lstsq(gram / np.outer(scale, scale), towards / scale, rcond=1e-12)[0] / scale
    weights /= weights.sum()
    missed = target.dot(target) - 2 * weights @ towards + weights @ gram @ weights
    return weights, float(np.sqrt(max(missed, 0.0) / target.dot(target)))
