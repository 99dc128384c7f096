"""A law as the solver uses it: ln y as a smooth function of a vector theta, for many theta at once, with derivatives.

theta has the logarithm of every amplitude and each exponent itself, in the order of the law's fields. Internally, ln x is
centered on its mean: at ln x near 40 an amplitude and its exponent would otherwise be almost one direction (the condition number
of Chinchilla's Jacobian falls from 2003 to 62 on Epoch's points).
"""

from dataclasses import dataclass

import numpy as np

DEAD_SHARE = 1e-3       # a term below this share of y at every point has vanished
REVIVED_SHARE, REVIVED_EXPONENT = 0.3, 0.3
LARGEST_LOG = 500.0     # a term beyond exp(500) is practically infinite, and its square is still a finite float


@dataclass(frozen=True)
class Term:
    """One non-negative summand: an amplitude times powers. ``powers`` has (variable, exponent's field, sign)."""

    amplitude: str
    powers: tuple[tuple[str, str, int], ...] = ()


class SumOfPowers:
    """Model of ``y = sum over terms of amplitude * product of x^(sign * exponent)``; every ln term is linear in theta.

    Args:
        terms: of the law; names: its fields in order; log_x: by variable, uncentered, ``(n,)`` each.
    """

    def __init__(self, terms: tuple[Term, ...], names: tuple[str, ...], log_x: dict[str, np.ndarray],
                 center: dict[str, float]) -> None:
        place = {name: i for i, name in enumerate(names)}
        n = len(next(iter(log_x.values())))
        self.design = np.zeros((len(terms), len(names), n))               # (terms, p, n)
        self.shift = np.eye(len(names))                                   # theta of the centered x = shift @ theta of x itself
        self.amplitudes = [place[term.amplitude] for term in terms]
        self.exponents = [sorted({place[exponent] for _, exponent, _ in term.powers}) for term in terms]
        self.parts: list[list[tuple[int, np.ndarray | None]]] = [[] for _ in names]
        for t, term in enumerate(terms):
            self.design[t, place[term.amplitude]] = 1.0
            self.parts[place[term.amplitude]].append((t, None))
            for variable, exponent, sign in term.powers:
                row = sign * (log_x[variable] - center[variable])
                self.design[t, place[exponent]] += row
                self.shift[place[term.amplitude], place[exponent]] += sign * center[variable]
            for exponent in {exponent for _, exponent, _ in term.powers}:
                self.parts[place[exponent]].append((t, self.design[t, place[exponent]]))

    def to_centered(self, theta: np.ndarray) -> np.ndarray:
        """Converts ``(s, p)`` of the law to ``(s, p)`` of the centered law."""
        return theta @ self.shift.T

    def from_centered(self, theta: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.shift, theta.T).T

    def evaluate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ln y ``(s, n)`` and each term's share of y ``(terms, s, n)`` at centered theta ``(s, p)``."""
        shares = np.matmul(theta, self.design)
        return sum_of_exponentials(shares)

    def jacobian(self, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """d ln y / d theta, ``(s, p, n)``."""
        out = np.empty((shares.shape[1], len(self.parts), shares.shape[2]))
        for p, parts in enumerate(self.parts):
            t, row = parts[0]
            np.copyto(out[:, p], shares[t]) if row is None else np.multiply(shares[t], row, out=out[:, p])
            for t, row in parts[1:]:
                out[:, p] += shares[t] if row is None else shares[t] * row
        return out

    def revive(self, theta: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which thetas have a vanished term ``(s,)``, and these thetas with every vanished term reset to a sizable share of the mean y."""
        shares = self.evaluate(theta)[1]
        dead = shares.max(axis=2) < DEAD_SHARE                            # (terms, s)
        again = dead.any(axis=0)
        revived = theta[again].copy()
        for t, (amplitude, exponents) in enumerate(zip(self.amplitudes, self.exponents)):
            gone = dead[t, again]
            revived[gone, amplitude] = np.log(REVIVED_SHARE * y.mean())
            revived[np.ix_(gone, exponents)] = REVIVED_EXPONENT
            revived[~gone, amplitude] += np.log(1.0 - REVIVED_SHARE)
        return again, revived


class OneBreak:
    """Model of ``y = E + A x^-c0 (1 + (x/d)^(1/f))^(-c1 f)``; theta is (ln E, ln A, c0, c1, ln d, ln f)."""

    def __init__(self, log_x: np.ndarray, center: float) -> None:
        self.log_x, self.center = log_x - center, center
        self.shift = np.eye(6)
        self.shift[1, 2] = -center

    def to_centered(self, theta: np.ndarray) -> np.ndarray:
        theta = theta @ self.shift.T
        theta[:, 4] -= self.center
        return theta

    def from_centered(self, theta: np.ndarray) -> np.ndarray:
        theta = theta.copy()
        theta[:, 4] += self.center
        return np.linalg.solve(self.shift, theta.T).T

    def evaluate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        floor, amplitude, before, after, knee, width = (column[:, None] for column in theta.T)
        width = np.exp(width)
        bend = np.logaddexp(0.0, (self.log_x - knee) / width)
        falling = amplitude - before * self.log_x - after * width * bend
        return sum_of_exponentials(np.stack([np.broadcast_to(floor, falling.shape), falling]))

    def jacobian(self, theta: np.ndarray, shares: np.ndarray) -> np.ndarray:
        _floor, _amplitude, _before, after, knee, width = (column[:, None] for column in theta.T)
        width = np.exp(width)
        offset = (self.log_x - knee) / width
        bend, step = np.logaddexp(0.0, offset), 0.5 * (1.0 + np.tanh(0.5 * offset))
        falling = shares[1]
        return np.stack([
            shares[0], falling, -falling * self.log_x, -falling * width * bend, falling * after * step,
            -falling * after * width * (bend - step * offset),
        ], axis=1)

    def revive(self, theta: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nothing is revived: only the floor can vanish, and the start grid has many floors."""
        return np.zeros(len(theta), dtype=bool), theta[:0]


def sum_of_exponentials(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln of the sum over the first axis, and each summand's share; ``logs`` is overwritten."""
    shares = np.clip(logs, -LARGEST_LOG, LARGEST_LOG)
    np.exp(shares, out=shares)
    total = shares.sum(axis=0)
    shares /= total
    return np.log(total, out=total), shares
