"""How far the optimum of an isoFLOP study is off by parabolas and by Akima's curves: N* at 1e24 FLOPs, made-up ladders of known truth.

    python benchmarks/bias_isoflop.py [--studies N] [--tiny]

The ladder is that of the reference tests: Hoffmann's E, A, B, five budgets from 1e17 to 1e21, 15 sizes to 16 times both sides of the
optimum. Noise is of ln score, one run a point. A grid "half a step off" has no size at the optimum itself. The last line is one JSON
object.
"""

import argparse
import json

import numpy as np
from tiny import parse

from ditscale.scaling.approaches import METHODS, approach2
from ditscale.scaling.laws import Chinchilla

BUDGETS, AT = (1e17, 1e18, 1e19, 1e20, 1e21), 1e24
SURFACES = {"alpha = beta = .31": (0.31, 0.31), "alpha .34, beta .28": (0.34, 0.28), "alpha .465, beta .155": (0.465, 0.155)}


def ladder(law: Chinchilla, width: float, sizes: int, noise: float, rng, moved: float = 0.0):
    """Sizes, data and scores of the ladder, ``(5 sizes,)`` each; ``moved`` in steps of the grid."""
    step = 2.0 * np.log(width) / (sizes - 1)
    factors = np.exp(np.linspace(-np.log(width), np.log(width), sizes) + moved * step)
    size = np.concatenate([law.optimal_size(c, 6.0) * factors for c in BUDGETS])
    data = np.repeat(BUDGETS, sizes) / (6.0 * size)
    return size, data, law.evaluate({"N": size, "D": data}) * np.exp(noise * rng.standard_normal(len(size)))


def off(law: Chinchilla, points, method: str) -> tuple[float, float]:
    """The relative error of N* at 1e24, and of the exponent the absolute one."""
    line = approach2(*points, method=method)
    return float(line.size(AT) / law.optimal_size(AT, 6.0) - 1.0), line.exponent - law.a


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    options = parse(parser, studies=3)
    studies = options.studies
    results = {"benchmark": "bias_isoflop", "tiny": options.tiny, "at": AT, "budgets": BUDGETS, "studies": studies, "rows": []}
    print("N*(1e24) off in %, median [2.5 %, 97.5 %]; exponent off")
    for name, (alpha, beta) in SURFACES.items():
        law = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=alpha, beta=beta)
        for width, sizes in ((16.0, 15), (16.0, 5), (3.0, 5)):
            for noise, moved in ((0.0, 0.0), (0.0, 0.5), (0.001, 0.0), (0.003, 0.0)):
                rng = np.random.default_rng(0)
                made = [ladder(law, width, sizes, noise, rng, moved) for _ in range(studies if noise else 1)]
                grid = f"{sizes} sizes to {width:g}x" + (", half a step off" if moved else "")
                for method in METHODS:
                    row = {"surface": name, "grid": grid, "noise_percent": 100 * noise, "method": method, **measured(law, made, method)}
                    results["rows"].append(row)
                    print("  ".join(str(value) for value in row.values()), flush=True)
    print(json.dumps(results))


def measured(law: Chinchilla, made: list, method: str) -> dict:
    size, exponent = np.transpose([off(law, points, method) for points in made])
    low, middle, high = np.nanpercentile(100 * size, [2.5, 50, 97.5]).round(2).tolist()
    return {"size_off": middle, "low": low, "high": high, "exponent_off": round(float(np.nanmedian(exponent)), 4)}


if __name__ == "__main__":
    main()
