"""How fast and how surely the solver finds Chinchilla's optimum: Hoffmann's 4,500 starts, 1,000 bootstraps, against L-BFGS.

    python benchmarks/fitting.py [--points CSV] [--rounds 2] [--every 1] [--bootstraps 1000]

CSV is Epoch's file of points read off Hoffmann et al.'s Fig. 4 (columns "Model Size", "Training FLOP", "loss"; the five largest
losses are dropped). Without it 240 points are made like it. The loss is Huber's of ln y, delta 1e-3. "At the optimum" is an
objective within 1e-3 of the best. L-BFGS is scipy's with the exact gradient of the same objective, on every 45th start; the
ratio is of processor seconds a start. The last line is one JSON object.
"""

import argparse
import csv
import json
import statistics
import time
from dataclasses import dataclass

import numpy as np
import scipy
from scipy import optimize
from tiny import parse

from ditscale.scaling.fitting import gather, refit
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.solver import Loss, minimize, minimize_from_grid
from ditscale.scaling.starts import hoffmann_grid

LOSS = Loss(1e-3)
EVERY = 45
AGREES = 1.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="of the starts only every so many-th")
    parser.add_argument("--bootstraps", type=int, default=1000)
    options = parse(parser, rounds=1, every=225, bootstraps=20)
    points = read(options.points) if options.points else made()
    rounds = [one_round(points, options) for _ in range(options.rounds)]
    median = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    print(json.dumps({"benchmark": "fitting", "tiny": options.tiny, "points": len(points.y), "data": "epoch" if options.points else "made",
                      "starts": -(-4500 // options.every), "bootstraps": options.bootstraps, **median, "rounds": rounds, "numpy": np.__version__,
                      "scipy": scipy.__version__}))


def one_round(points, options) -> dict:
    """Seconds and shares of one pass over everything."""
    model = points.model
    grid = model.to_centered(hoffmann_grid()[::options.every])
    grid_seconds, found = timed(lambda: minimize_from_grid(model, points.y, grid, LOSS))
    polished = minimize(model, points.y, found.theta[[found.best]], LOSS, iterations=5000, tolerance=1e-14)
    best = float(polished.objective[0])
    drawn = np.random.default_rng(0).multinomial(len(points.y), np.full(len(points.y), 1 / len(points.y)), options.bootstraps).astype(float)
    bootstrap_seconds, _ = timed(lambda: refit(points, model.from_centered(polished.theta)[0], LOSS, drawn))
    lbfgs_seconds, values = timed(lambda: [by_lbfgs(model, points.y, start) for start in grid[::EVERY]])
    result = {**grid_seconds.named("grid"), **bootstrap_seconds.named("bootstrap"), "share_at_optimum": float(np.mean(found.objective <= AGREES * best)),
              "best_objective": best, "lbfgs_cpu_seconds_a_start": lbfgs_seconds.cpu / len(values),
              "lbfgs_share_at_optimum": float(np.mean(np.array(values) <= AGREES * best)),
              "lbfgs_over_ours": lbfgs_seconds.cpu / len(values) / (grid_seconds.cpu / len(grid))}
    print(result, flush=True)
    return result


def by_lbfgs(model, y: np.ndarray, start: np.ndarray) -> float:
    """The objective where scipy's L-BFGS-B ends, scaled by 1000 and with tight tolerances, as it needs."""
    log_y = np.log(y)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        predicted, shares = model.evaluate(theta[None])
        r = log_y - predicted
        slope = -model.jacobian(theta[None], shares)[0] @ (r[0] * LOSS.influence(r)[0])
        return 1e3 * float(LOSS.value(r, np.ones_like(r))[0]), 1e3 * slope

    return optimize.minimize(objective, start, jac=True, method="L-BFGS-B",
                             options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 5000, "maxfun": 20000}).fun / 1e3


def read(path: str):
    """The points of Epoch's file, without the five largest losses; D = C / (6 N)."""
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    size, compute, loss = (np.array([float(row[name]) for row in rows]) for name in ("Model Size", "Training FLOP", "loss"))
    keep = loss < np.sort(loss)[-5]
    return gather("chinchilla", {"N": size[keep], "D": (compute / (6.0 * size))[keep]}, loss[keep])


def made(n: int = 240, seed: int = 0):
    """Points about Chinchilla's surface with heavy-tailed noise of about 1 %."""
    rng = np.random.default_rng(seed)
    size, compute = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), n)), np.exp(rng.uniform(np.log(1e19), np.log(2e21), n))
    columns = {"N": size, "D": compute / (6.0 * size)}
    law = Chinchilla(E=1.8172, A=477.8, B=2143.4, alpha=0.3473, beta=0.3672)
    return gather("chinchilla", columns, law.evaluate(columns) * np.exp(0.006 * rng.standard_t(3, n)))


@dataclass(frozen=True)
class Seconds:
    """On the clock, and of processors: the second is what a machine shared with others leaves comparable."""

    wall: float
    cpu: float

    def named(self, name: str) -> dict:
        return {f"{name}_seconds": self.wall, f"{name}_cpu_seconds": self.cpu}


def timed(work):
    """``Seconds``, and what the work gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), value


if __name__ == "__main__":
    main()
