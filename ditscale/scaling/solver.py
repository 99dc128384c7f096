"""Batched Levenberg-Marquardt with iteratively reweighted least squares: many starts, or many resamples, in one array.

Minimizes ``sum_i weight_i * rho(r_i)`` over theta, with r the residual of ln y or of y and rho the square (r^2 / 2) or
Huber's function. Each start has its own damping and leaves the batch when it has converged. Nothing here depends on the
scale of the objective, so its sum and its mean have the same optimum. An optimizer with an absolute tolerance stops at once on
the mean (about 4e-6 on Epoch's points) and reports success.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH = 192                  # starts per chunk: its arrays stay in the processor's cache
SMALL_STEPS_IN_A_ROW = 3
SAME_PLACE = 3               # decimals of theta to which equal starts agree
LONGEST_STEP = 2.0           # a factor of 7 in an amplitude


@dataclass(frozen=True)
class Loss:
    """``delta`` None is the square; ``in_log`` says whether residuals are of ln y or of y."""

    delta: float | None = None
    in_log: bool = True

    def value(self, r: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The objective ``(s,)`` of residuals ``(s, n)``."""
        if self.delta is None:
            return 0.5 * np.einsum("sn,sn,sn->s", *np.broadcast_arrays(weights, r, r))
        size = np.abs(r)
        inside = np.minimum(size, self.delta)
        return np.einsum("sn,sn->s", *np.broadcast_arrays(weights, inside * (size - 0.5 * inside)))

    def influence(self, r: np.ndarray) -> np.ndarray | float:
        """rho'(r) / r, the weight of a point in the least-squares problem tangent to the loss at r."""
        if self.delta is None:
            return 1.0
        return self.delta / np.maximum(np.abs(r), self.delta)


@dataclass(frozen=True)
class Pull:
    """An extra term ``stiffness / 2 * (aim - direction . theta)^2``: its resting point is on the profile."""

    direction: np.ndarray    # (p,)
    aim: np.ndarray          # (s,)
    stiffness: float


@dataclass(frozen=True)
class Solutions:
    """Where each start ended: centered theta ``(s, p)``, objective ``(s,)`` without the pull, converged ``(s,)``."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    @property
    def best(self) -> int:
        return int(np.argmin(self.objective))


def minimize(model, y: np.ndarray, starts: np.ndarray, loss: Loss, *, weights: np.ndarray | None = None,
             pull: Pull | None = None, iterations: int = 300, tolerance: float = 1e-7) -> Solutions:
    """Runs every start to its end.

    Args:
        model: of ``terms``; y: ``(n,)``, or one row per start ``(s, n)``; starts: centered theta ``(s, p)``.
        weights: of points, ``(n,)`` or one row per start ``(s, n)``; in a bootstrap, how often a run was drawn.
        tolerance: a start has converged after three successive steps with a smaller relative decrease of the objective.
    """
    starts = np.atleast_2d(np.asarray(starts, dtype=np.float64))
    y = np.broadcast_to(y, (len(starts), np.shape(y)[-1]))
    weights = np.broadcast_to(1.0 if weights is None else weights, y.shape)
    pieces = [slice(at, at + BATCH) for at in range(0, len(starts), BATCH)]

    def run(piece: slice) -> Solutions:
        pulled = pull and Pull(pull.direction, pull.aim[piece], pull.stiffness)
        return _run(_Problem(model, y[piece], loss, weights[piece], pulled), starts[piece].copy(), iterations, tolerance)

    if len(pieces) == 1:
        return run(pieces[0])
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:         # numpy releases the interpreter's lock
        done = list(pool.map(run, pieces))
    return Solutions(*(np.concatenate([getattr(part, name) for part in done]) for name in ("theta", "objective", "converged")))


def minimize_from_grid(model, y: np.ndarray, starts: np.ndarray, loss: Loss, **options) -> Solutions:
    """``minimize`` for rough starts: least squares first, then terms that vanished are revived once, then the loss.

    A term with a vanishing share of y everywhere has no gradient left, however much the fit would gain from it:
    a plateau at infinity, not a minimum. Otherwise 3 in 10 of Hoffmann's 4,500 starts on Epoch's points end on it. Starts that
    least squares brings to the same point continue as one. ``weights``, among the options, must be one row for all starts.
    """
    square = Loss(None, loss.in_log)
    rough_steps: dict[str, Any] = {"iterations": 80, "tolerance": 1e-7}
    rough = minimize(model, y, starts, square, **rough_steps, **options)
    theta = rough.theta.copy()
    again, revived = model.revive(theta, y)
    if again.any():
        second = minimize(model, y, revived, square, **rough_steps, **options)
        gain = second.objective < rough.objective[again]
        theta[np.flatnonzero(again)[gain]] = second.theta[gain]
    _, one, place = np.unique(np.round(theta, SAME_PLACE), axis=0, return_index=True, return_inverse=True)
    done, place = minimize(model, y, theta[one], loss, **options), place.reshape(-1)
    return Solutions(done.theta[place], done.objective[place], done.converged[place])


class _Problem:
    """The objective of a chunk; ``rows`` selects the active starts."""

    def __init__(self, model, y: np.ndarray, loss: Loss, weights: np.ndarray, pull: Pull | None) -> None:
        self.model, self.loss, self.weights, self.pull = model, loss, weights, pull
        self.y = np.log(y) if loss.in_log else y

    def residuals(self, theta: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        log_y, shares = self.model.evaluate(theta)
        return self.y[rows] - (log_y if self.loss.in_log else np.exp(log_y)), log_y, shares

    def objective(self, theta: np.ndarray, r: np.ndarray, rows: np.ndarray) -> np.ndarray:
        value = self.loss.value(r, self.weights[rows])
        if self.pull is not None:
            value = value + 0.5 * self.pull.stiffness * (self.pull.aim[rows] - theta @ self.pull.direction) ** 2
        return value

    def normal_equations(self, theta, r, log_y, shares, rows) -> tuple[np.ndarray, np.ndarray]:
        """J' W J ``(s, p, p)`` and J' W r ``(s, p)``."""
        jacobian = self.model.jacobian(theta, shares)
        if not self.loss.in_log:
            jacobian *= np.exp(log_y)[:, None, :]
        weighted = jacobian * (self.weights[rows] * self.loss.influence(r))[:, None, :]
        normal, gradient = weighted @ jacobian.transpose(0, 2, 1), (weighted @ r[:, :, None])[:, :, 0]
        if self.pull is not None:
            along = self.pull.direction
            normal = normal + self.pull.stiffness * np.outer(along, along)
            gradient = gradient + self.pull.stiffness * np.outer(self.pull.aim[rows] - theta @ along, along)
        return normal, gradient


def _run(problem: _Problem, theta: np.ndarray, iterations: int, tolerance: float) -> Solutions:
    rows = np.arange(len(theta))                                          # of theta, still active
    final, converged = theta.copy(), np.zeros(len(theta), dtype=bool)
    r, log_y, shares = problem.residuals(theta, rows)
    value = problem.objective(theta, r, rows)
    normal, gradient = problem.normal_equations(theta, r, log_y, shares, rows)
    damping, small = np.full(len(theta), 1e-2), np.zeros(len(theta), dtype=int)
    for _ in range(iterations):
        moved = theta + _step(normal, gradient, damping)
        r, log_y, shares = problem.residuals(moved, rows)
        trial = problem.objective(moved, r, rows)
        better = trial < value                                            # also False for NaN
        fall = np.where(better, value - trial, 0.0)
        small = np.where(fall > tolerance * value, 0, small + better)
        theta[better], value[better] = moved[better], trial[better]
        if better.any():
            normal[better], gradient[better] = problem.normal_equations(
                moved[better], r[better], log_y[better], shares[:, better], rows[better])
        damping = np.where(better, np.maximum(damping * 0.2, 1e-12), damping * 5.0)
        done = (small >= SMALL_STEPS_IN_A_ROW) | (damping > 1e9) | (value < 1e-28)
        if done.any():
            final[rows[done]], converged[rows[done]] = theta[done], True
            stay = ~done
            rows, theta, value, damping, small = rows[stay], theta[stay], value[stay], damping[stay], small[stay]
            normal, gradient = normal[stay], gradient[stay]
            if not rows.size:
                break
    final[rows] = theta
    r, _, _ = problem.residuals(final, np.arange(len(final)))
    return Solutions(final, problem.loss.value(r, problem.weights), converged)


def _step(normal: np.ndarray, gradient: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """The damped step ``(s, p)``, at most ``LONGEST_STEP`` in any direction.

    Levenberg's damping, one number for all directions: Marquardt's scaling would send the amplitude of a term with almost
    no share, and hence almost no curvature, so far that it never comes back.
    """
    most = np.einsum("spp->sp", normal).max(axis=1)
    damped = normal.copy()
    np.einsum("spp->sp", damped)[...] += ((damping + 1e-13) * most + 1e-300)[:, None]
    step = np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
    return step * np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), LONGEST_STEP))
