"""The cost rule ``C = k N^p D^q`` for size and data, and the optimal size of a Chinchilla surface under it.

6 N D is one rule (k = 6, p = q = 1). Compute that was counted term by term is another: embeddings, heads, and vectors computed once
per image grow with another power of the size, so a study that counts them passes its own compute and the rule is fitted to it.
"""

import math
from dataclasses import dataclass

import numpy as np

from ditscale.scaling import inputs
from ditscale.scaling.laws import Chinchilla

FAR_OFF = 0.10             # a rule that misses a point's compute by more than this is not used for the optimum


@dataclass(frozen=True)
class Spending:
    """``C = k N^p D^q``. ``misfit`` is its largest relative error over the points' own compute, 0 if the rule is the definition."""

    k: float
    p: float = 1.0
    q: float = 1.0
    misfit: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether it can be used for optima: it fits, and both more size and more data cost more."""
        return self.misfit <= FAR_OFF and self.p > 0 and self.q > 0

    @property
    def formula(self) -> str:
        return f"{self.k:g} N D" if self.p == self.q == 1.0 else f"{self.k:.3g} N^{self.p:.3f} D^{self.q:.3f}"

    def compute(self, size, data) -> np.ndarray:
        return self.k * np.asarray(size, np.float64) ** self.p * np.asarray(data, np.float64) ** self.q

    def data(self, size, compute) -> np.ndarray:
        """The amount of data that a budget pays for at a size."""
        return (np.asarray(compute, np.float64) / (self.k * np.asarray(size, np.float64) ** self.p)) ** (1.0 / self.q)

    def exponent(self, law: Chinchilla) -> float:
        """The exponent of N* in C: beta / (q alpha + p beta), which is 2203.15556 eq. 4 for p = q = 1."""
        return law.beta / (self.q * law.alpha + self.p * law.beta)

    def optimal_size(self, law: Chinchilla, compute) -> np.ndarray:
        """N* at ``compute``: where d/d ln N of A N^-alpha + B D^-beta is 0 along C = k N^p D^q."""
        ratio = self.p / self.q
        lead = (law.alpha * law.A / (law.beta * ratio * law.B)) ** (1.0 / (law.alpha + law.beta * ratio))
        return lead * (np.asarray(compute, np.float64) / self.k) ** self.exponent(law)


def fit_spending(size, data, compute) -> Spending:
    """The rule nearest to the points' compute, by least squares in logarithms, ``(n,)`` each.

    Exponents that the points do not determine (one size, one amount of data, or both changing together) are 1.
    """
    n, d, c = (np.log(inputs.numbers(name, v)) for name, v in (("size", size), ("data", data), ("compute", compute)))
    design = np.column_stack([n - n.mean(), d - d.mean()])
    spread = np.linalg.svd(design, compute_uv=False)
    p = q = 1.0
    if np.ptp(c - n - d) > 1e-9 and len(n) > 3 and spread[-1] > 1e-3 * spread[0]:
        p, q = np.linalg.lstsq(design, c - c.mean(), rcond=None)[0]
    log_k = (c - p * n - q * d).mean()
    misfit = math.expm1(np.abs(c - log_k - p * n - q * d).max())
    return Spending(math.exp(log_k), float(p), float(q), misfit if misfit > 1e-9 else 0.0)
