"""Data that is seen again: what it is worth, the solver's model of the form ``repeated``, and whether the points need it.

Muennighoff et al. (2305.16264): D images seen of U unique ones, R = D / U - 1 repetitions, are worth D' = U + U R* (1 - exp(-R / R*)) unique images.
R* is in epochs: where R is far below it, an image seen again is as good as a new one; far above it, further epochs are worth nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from ditscale.scaling.terms import LARGEST_LOG, SumOfPowers, sum_of_exponentials

if TYPE_CHECKING:
    from ditscale.scaling.result import Fit

DATA_TERM, SMALLEST_LOG, LARGEST_LOG_R = 2, -30.0, 60.0


def worth_of_data(data, unique, r_star) -> np.ndarray:
    """D', in unique images; arrays broadcast. Data that is not seen twice (``data <= unique``) is worth itself."""
    data, unique, r_star = (np.asarray(value, np.float64) for value in (data, unique, r_star))
    seen = np.minimum(data, unique)
    repeats = np.maximum(data / unique - 1.0, 0.0)
    return seen - unique * r_star * np.expm1(-np.minimum(repeats / r_star, LARGEST_LOG))


class RepeatedPowers(SumOfPowers):
    """Chinchilla's sum of powers with D' in place of D; theta ends with ln R*. D' is centered as ln D is."""

    def __init__(self, terms, names: tuple[str, ...], log_x: dict[str, np.ndarray], center: dict[str, float]) -> None:
        super().__init__(terms, names, {name: log_x[name] for name in ("N", "D")}, center)
        self.r, self.beta = names.index("R_star"), names.index("beta")
        self.fewer = np.minimum(log_x["U"] - log_x["D"], 0.0)                  # ln of the share of D that is seen first
        self.repeats = np.maximum(np.exp(log_x["D"] - log_x["U"]) - 1.0, 0.0)

    def evaluate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logs = np.matmul(theta, self.design)
        logs[DATA_TERM] -= theta[:, [self.beta]] * self._log_worth(theta)[0]
        return sum_of_exponentials(logs)

    def jacobian(self, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
        out = np.einsum("tsn,tpn->spn", shares, self.design)
        log_worth, slope = self._log_worth(theta)
        out[:, self.beta] -= shares[DATA_TERM] * log_worth
        out[:, self.r] = -shares[DATA_TERM] * theta[:, [self.beta]] * slope
        return out

    def _log_worth(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ln (D' / D), ``(s, n)``, and its derivative in ln R*."""
        r = np.exp(np.clip(theta[:, [self.r]], SMALLEST_LOG, LARGEST_LOG_R))
        x = np.minimum(self.repeats / r, LARGEST_LOG)
        lost = -np.expm1(-x)
        whole = 1.0 + r * lost                                                 # D' / U
        return self.fewer + np.log(whole), r * (lost - x * np.exp(-x)) / whole


@dataclass(frozen=True)
class Repetition:
    """The form ``repeated`` against ``chinchilla`` on the same points: an F test of the one coefficient more.

    ``p`` is None if it cannot be tested, and ``reason`` says why.
    """

    with_it: "Fit"
    without: "Fit"
    f: float | None = None
    p: float | None = None
    freedom: int = 0
    reason: str = ""

    @property
    def sentence(self) -> str:
        lack = self.without.lack_of_fit
        lack_words = "not tested" if lack is None or lack.p is None else f"p = {lack.p:.2g}"
        tested = self.reason if self.p is None else f"F(1, {self.freedom}) = {self.f:.3g}, p = {self.p:.2g}"
        verdict = "" if self.p is None else ": the points need it" if self.p < 0.05 else ": the points do not need it"
        return f"R_star against none, Chinchilla's form: {tested}{verdict}. Lack of fit without R_star: {lack_words}"

    def card(self) -> dict:
        """Ready for JSON."""
        def of(fit: "Fit") -> dict | None:
            return fit.lack_of_fit.card() if fit.lack_of_fit else None
        return {"F": self.f, "p": self.p, "freedom": [1, self.freedom], "reason": self.reason or None, "lack_of_fit": of(self.with_it),
                "lack_of_fit_without": of(self.without), "residual_spread_without": self.without.residual_spread if self.without.law else None}


def compare(with_it: "Fit", without: "Fit") -> Repetition:
    """Whether the points need the repetitions; both are least-squares fits of the same points, in ln y or both in y."""
    if with_it.search is None or without.search is None:
        return Repetition(with_it, without, reason=f"not tested: {(with_it if with_it.search is None else without).words}")
    if with_it.n_runs < with_it.n_points:
        return Repetition(with_it, without, reason="not tested: runs have several points with correlated errors")
    freedom = with_it.n_points - len(with_it.search.theta)
    gain = max(without.search.objective - with_it.search.objective, 0.0)
    f = gain / (with_it.search.objective / freedom) if freedom > 0 and with_it.search.objective > 0 else np.inf
    return Repetition(with_it, without, float(f), float(special.fdtrc(1, freedom, f)), freedom)
