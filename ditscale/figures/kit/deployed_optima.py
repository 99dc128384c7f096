"""The isoFLOP figure's optima if each budget also pays for images to be made: the options, the curve, a sentence and the card's entry."""

import math
from dataclasses import dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.figures.kit import style
from ditscale.models.macs import FLOPS_PER_MAC
from ditscale.scaling.cards import bounds
from ditscale.scaling.deployment import Deployed, deployed, deployed_optimum
from ditscale.scaling.fitting import Fit
from ditscale.scaling.laws import Chinchilla
from ditscale.scaling.status import FARTHEST
from ditscale.studies.table.sampling_cost import flops_per_image, images_of_evaluations

UNEVEN = 1.1                # times between runs, in the forward passes of N FLOPs that an image takes: beyond, there is no one S
LINE = (0, (1, 1.4))
OPTIONS = {
    "images-to-make": {"type": float, "metavar": "N", "help": "Also give the surface's optima if each budget pays for training and for making N images."},
    "forwards": {"type": float, "metavar": "Q", "help": "Forward passes per image made, for --images-to-make.  [default: as the study's scores were made]"},
}


@dataclass(frozen=True)
class DeployedOptima:
    """``optima`` of each budget; ``sampling`` is S, in forward passes of N FLOPs. ``evaluated``: images that evaluations made per run, or NaN.

    ``reach``: how many times beyond the points' sizes or data the farthest optimum lies; 1 inside.
    """

    images: float
    sampling: float
    k: float
    optima: tuple[Deployed, ...]
    evaluated: float
    reach: float

    def draw(self, axes, law: Chinchilla, span: np.ndarray) -> list[float]:
        """Draws N* with sampling over the budgets ``span`` (low, high); returns the values that the axis must include."""
        compute = np.geomspace(span[0], span[1], 40)
        size, _ = deployed_optimum(law, compute, self.sampling, self.k)
        axes.plot(compute, size, color=style.INK, linewidth=1.6, linestyle=LINE, zorder=2)
        shown = [*size]
        for one in self.optima:
            between = one.size_interval
            if between:
                axes.plot([one.compute] * 2, [between.low, between.high], color=style.MUTED, linewidth=1.1, zorder=3, solid_capstyle="butt")
                shown += [between.low, between.high]
            axes.plot(one.compute, one.size, marker="s", markersize=4.5, color=style.PAPER, markeredgecolor=style.INK, markeredgewidth=1.2, zorder=4)
        return shown

    def sentence(self, alone: list[float], data_alone: list[float]) -> str:
        """For the caption, at the largest budget; ``alone`` and ``data_alone`` are the optima of training alone."""
        last = self.optima[-1]
        of_size = f" (95 % {last.size_interval.low:.3g} to {last.size_interval.high:.3g})" if last.size_interval else ""
        own = "" if math.isnan(self.evaluated) else f"; evaluations made {self.evaluated:,.0f} per run, which are part of them"
        return (f"Dotted, squares: if the budget also pays for making {self.images:,.0f} images ({self.sampling:.3g} forward passes{own}): at "
                f"{style.power_of_ten(last.compute)} FLOPs N* is {last.size:.3g}{of_size}, {last.size / alone[-1]:.2g} times that of training alone, "
                f"trained on {last.data / data_alone[-1]:.2g} times the data; {100 * last.share:.0f} % of the compute is sampling."
                + (f" An optimum lies {self.reach:.2g} times outside the points: they do not support it." if self.reach > FARTHEST else ""))

    def card(self) -> dict:
        """Ready for JSON."""
        return {"images_to_make": self.images, "forward_passes": self.sampling, "compute": "k N (D + S / 3)", "k": self.k,
                "times_outside_the_points": self.reach,
                "images_of_evaluations_per_run": None if math.isnan(self.evaluated) else self.evaluated,
                "optima": [{"compute": one.compute, "size": one.size, "data": one.data, "score": one.score, "share_of_sampling": one.share,
                            "size_interval": bounds(one.size_interval), "data_interval": bounds(one.data_interval)} for one in self.optima]}


def forward_passes(points, options) -> float | None:
    """S, the forward passes of N FLOPs for the images asked for; None if none are. Before any fit, as fits take seconds.

    Raises:
        UserError: an option is impossible, or what an image costs is not known or differs between runs.
    """
    images = options.images_to_make
    if images is None:
        if options.forwards is not None:
            raise UserError("--forwards is for --images-to-make N: give both")
        return None
    if not 0 <= images < math.inf:
        raise UserError(f"--images-to-make {images:g}: give a number of images, 0 or more")
    if (points.spending.p, points.spending.q) != (1.0, 1.0):
        raise UserError(f"--images-to-make needs a compute of k N D, and this table's is near {points.spending.formula}")
    return images * _forwards(points, options.forwards)


def find(points, surface: Fit, computes: list[float], options, sampling: float | None, resamples: int) -> DeployedOptima | None:
    """The optima at the budgets' compute; None if no images are asked for.

    Raises:
        UserError: there is no surface.
    """
    if sampling is None:
        return None
    if not isinstance(surface.law, Chinchilla) or not surface.drawable:
        raise UserError(f"--images-to-make needs a surface: {surface.words}")
    optima = tuple(deployed(surface, compute, sampling, points.spending.k, resamples) for compute in computes)
    evaluated = images_of_evaluations(points.rows) if "run_id" in points.rows else math.nan
    ends = [(surface.x_ranges["N"], one.size) for one in optima] + [(surface.x_ranges["D"], one.data) for one in optima]
    reach = max(max(low / at, at / high, 1.0) for (low, high), at in ends)
    return DeployedOptima(options.images_to_make, sampling, points.spending.k, optima, evaluated, reach)


def _forwards(points, stated: float | None) -> float:
    """Forward passes of N FLOPs for one image: a variant's N, training FLOPs per image / 3, is not one forward pass of its model."""
    rows = points.rows
    if stated is not None and not 0 < stated < math.inf:
        raise UserError(f"--forwards {stated:g}: give the number of forward passes per image, above 0, for example 500 for 250 steps with guidance")
    if "run_id" not in rows:
        if stated is None:
            raise UserError("--images-to-make needs --forwards Q: this table does not say how many forward passes an image takes")
        return stated
    per_image = flops_per_image(rows) if stated is None else stated * FLOPS_PER_MAC * rows["macs"].astype(float)
    passes = per_image / rows["N"]
    if passes.isna().any():
        raise UserError(f"what an image costs to make is not known for run '{rows['run_id'][passes.isna()].iloc[0]}'; give --forwards Q")
    if passes.max() > UNEVEN * passes.min():
        raise UserError(f"an image takes {passes.min():.3g} to {passes.max():.3g} forward passes of N FLOPs, by run: there is no one optimum; keep runs "
                        "that sample alike, or give --forwards Q")
    return float(passes.median())
