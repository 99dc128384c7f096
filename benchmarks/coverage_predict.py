"""How often predictions of a larger run hold on made-up ladders, and how wide they are: `python benchmarks/coverage_predict.py [--studies N]`.

Three designs: "lengths" (three sizes of DiT's, four lengths each in tokens per parameter, one seed), "seeds" (four sizes, three seeds, one
length) and "along" (three sizes, two seeds, one length, the target trains twice as long). Losses follow Chinchilla's form with
exponents and floors drawn anew; runs have luck, checkpoints noise; the score is a power of the loss above a floor, with noise of its own.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling.forecast import Rungs, forecast
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.predict import BY_LOSS, predict_score

LUCK, WOBBLE, SCORE_LUCK, SCORE_WOBBLE = 0.003, 0.001, 0.02, 0.02
DIT = np.array([6.06, 23.0, 80.7, 118.6]) * 2e9                                # forward FLOPs of S/2, B/2, L/2, XL/2


@dataclass(frozen=True)
class Made:
    """A ladder and what its target then scored."""

    losses: Rungs
    scores: Rungs
    size: float
    data: float
    loss: float
    score: float


def ladder(seed: int, design: str, sizes_differ: float = 0.0, checkpoints: int = 8) -> Made:
    """A made-up study; ``sizes_differ`` is the exponent with which the score depends on the size at equal loss."""
    rng = np.random.default_rng(seed)
    floor, (alpha, beta), power = rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.5, 2), rng.uniform(3, 8)
    if design == "lengths":
        sizes, size, first = DIT[:3], DIT[3], 2e6
        runs = [(own, first * own / sizes[0] * length) for own in sizes for length in (0.5, 1, 2, 4)]
        data = first * size / sizes[0]
    elif design == "seeds":
        sizes, size, data, first = np.array([1.0, 3, 9, 27]) * 1e6, 81e6, 1e5, 1e5
        runs = [(own, data) for own in sizes for _ in range(3)]
    else:
        sizes, size, data, first = np.array([1.0, 3, 9]) * 1e6, 27e6, 2e5, 1e5
        runs = [(own, first) for own in sizes for _ in range(2)]
    law = Chinchilla(E=floor, A=0.25 * sizes[0]**alpha, B=0.15 * first**beta, alpha=alpha, beta=beta)
    score_floor = rng.uniform(0, 5)

    def train(own: float, length: float):
        d = length * np.arange(1, checkpoints + 1) / checkpoints
        loss = law.evaluate({"N": np.full(checkpoints, own), "D": d}) * np.exp(LUCK * rng.standard_normal() + WOBBLE * rng.standard_normal(checkpoints))
        score = score_floor + 10 * ((loss - 0.5 * floor) / 0.5) ** power * (own / sizes[0]) ** sizes_differ
        return d, loss, score * np.exp(SCORE_LUCK * rng.standard_normal() + SCORE_WOBBLE * rng.standard_normal(checkpoints))

    rows = [(own, d, loss, score, f"run{i}") for i, (own, length) in enumerate(runs) for d, loss, score in zip(*train(own, length))]
    own, d, loss, score, run = (np.array(column) for column in zip(*rows))
    _, last_loss, last_score = train(size, data)
    return Made(Rungs(own, d, loss, run), Rungs(own, d, score, run), size, data, float(last_loss[-1]), float(last_score[-1]))


DESIGNS = (("lengths", 0.0), ("seeds", 0.0), ("along", 0.0), ("lengths", 0.15), ("seeds", 0.15))


@dataclass(frozen=True)
class Held:
    """Over studies: shares that held, median half widths in logarithms, root mean square errors; ``refused`` had no interval."""

    studies: int
    refused: int
    loss: float
    loss_width: float
    loss_error: float
    score: float
    score_width: float
    score_error: float
    by_loss: float


def coverage(design: str, studies: int, first: int = 0, sizes_differ: float = 0.0) -> Held:
    rows, refused = [], 0
    for seed in range(first, first + studies):
        made = ladder(seed, design, sizes_differ)
        try:
            loss = forecast(made.losses, made.size, made.data)
            score = predict_score(made.scores, made.size, made.data, made.losses, loss)
        except UserError:
            refused += 1
            continue
        rows.append((made.loss in loss.interval, loss.half_width, math.log(loss.value / made.loss), made.score in score.interval,
                     math.log(score.interval.high / score.interval.low) / 2, math.log(score.value / made.score), score.how == BY_LOSS))
    held, width, error, score_held, score_width, score_error, by_loss = np.array(rows, float).T
    return Held(studies, refused, held.mean(), float(np.median(width)), float(np.sqrt(np.mean(error**2))), score_held.mean(),
                float(np.median(score_width)), float(np.sqrt(np.mean(score_error**2))), by_loss.mean())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--studies", type=int, default=100, help="made-up studies a design")
    arguments.add_argument("--tiny", action="store_true", help="two studies of one design, to see that it runs")
    given = arguments.parse_args()
    studies, designs = (2, DESIGNS[:1]) if given.tiny else (given.studies, DESIGNS)
    rows = [{"design": design, "sizes_differ": differ, **asdict(coverage(design, studies, sizes_differ=differ))} for design, differ in designs]
    print(json.dumps({"benchmark": "coverage_predict", "tiny": given.tiny, "studies": studies, "rows": rows}))


if __name__ == "__main__":
    main()
