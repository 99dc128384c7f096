"""The study's power laws as fit cards: power_law.json, score against model MACs and against training FLOPs.

One point per finished run, its last evaluation; against MACs, of models with several lengths those at one. Earlier checkpoints are not
fitted: their errors are correlated within a run, and if the learning rate decays they are runs cut short, not runs with a smaller budget.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from ditscale.figures.kit import one_length, study_table, style
from ditscale.figures.kit.script import Script
from ditscale.scaling.fitting import Fit, fit_power_law
from ditscale.scaling.laws import PowerLaw
from ditscale.scaling.profile import ProfileIntervals
from ditscale.studies.table.comparable import trunks

COSTS = {"macs": "forward MACs per image", "train_flops": "training FLOPs"}
COUNTED = {
    "macs": "multiply-adds of one forward pass on one image, each counted once (the DiT papers' 'Gflops', x 1e9)",
    "train_flops": "2 FLOPs per multiply-add, 3 for forward and backward (a teacher's forward: 1), times images seen",
}
GRID_POINTS = 40


@dataclass(frozen=True)
class StudyLaw:
    """A fit with its intervals, a description of how its points were chosen, and the name of its x column."""

    cost: str
    fit: Fit
    intervals: ProfileIntervals
    context: dict

    @property
    def law(self) -> PowerLaw | None:
        """The law of ``fit``, or None."""
        return cast(PowerLaw | None, self.fit.law)

    def card(self) -> dict:
        return self.fit.card(self.intervals, self.context)


def fit_law(table: pd.DataFrame, cost: str) -> StudyLaw:
    """Score against ``cost`` ("macs" or "train_flops") over the finished runs, with the band across their range. Against MACs
    all runs are taken at one training length if they share one, and a model has one length in any case; against training FLOPs branches are
    points of their trunk.

    Raises:
        UserError: the scores are not comparable, or no run has finished.
    """
    usable, left_out = study_table.scored(table)
    usable, unknown = study_table.known(usable, cost, COSTS[cost])
    final, chosen = one_length.at_one_count(usable) if cost == "macs" else study_table.law_ends(usable)
    x, y, runs = final[cost].to_numpy(float), final["score"].to_numpy(float), trunks(final).to_numpy(str)
    fit = fit_power_law(x, y, runs, x_unit=COSTS[cost], y_unit=final["metric"].iloc[0])
    grid = np.geomspace(x.min(), x.max(), GRID_POINTS)
    several = cost == "macs" and one_length.has_several(study_table.finished(usable))
    context = {
        "x_counted": COUNTED[cost],
        "kept": (one_length.KEPT if several else "the last evaluation of each finished run.") + chosen + left_out + unknown,
        "runs_in_study": int(table["run_id"].nunique()),
        "runs": sorted(set(runs.tolist())),
        "passport": str(final["passport"].iloc[0]),
        "samples": study_table.sample_counts(final),
        "floor": study_table.floor_of(final),
        "floor_meaning": "the score of training images against held-out images; the law has no floor term",
    }
    return StudyLaw(cost, fit, fit.intervals(grid), context)


def fit_laws(table: pd.DataFrame) -> dict[str, StudyLaw]:
    """The law of each cost, by column."""
    return {cost: fit_law(table, cost) for cost in COSTS}


def write(laws: dict[str, StudyLaw], out: Path) -> list[Path]:
    """Writes ``power_law.json`` with one card per cost."""
    return [style.write_json(out / "power_law.json", {f"score_vs_{cost}": law.card() for cost, law in laws.items()})]


SCRIPT = Script(__doc__, lambda table, arguments, out: write(fit_laws(table), out))
main = SCRIPT.main
