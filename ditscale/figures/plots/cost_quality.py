"""Score against training cost, with arrows that show how many times cheaper a variant is, with intervals.

One curve per model and variant. An arrow goes from what the baseline paid for a score to what the variant paid, at the middle of the
scores that both passed; if the difference changes sign, at the middle of each part in which it is REAL. Published results, each with
its own recipe, are drawn as points, and nothing is read off between them.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import costs, labels, overlay as published_overlay, panels, published, runs, script, seeds, study_table, style, variant_table
from ditscale.figures.kit.overlay import Overlay
from ditscale.scaling.course import IN_PART, Part
from ditscale.scaling.differences import REAL
from ditscale.scaling.estimate import AtTarget
from ditscale.scaling.multiplier import Multiplier
from ditscale.scaling.speedup import Speedup
from ditscale.studies.table.study import Study

NAME = "cost_quality"
COLUMNS = ["run_id", "model", "variant", "seed", "images_seen", "cost", "metric", "score", "final"]
OPTIONS = {**costs.OPTIONS, "over": {"default": variant_table.BASELINE, "metavar": "VARIANT",
                                     "show_default": True, "help": "The variant that others are compared with."},
           "floor": {"type": float, "metavar": "E", "help": "With --exponent: also the effective speed-up at equal cost, for a validation loss of "
                                                            "the variant --over that follows E + A C^-alpha."},
           "exponent": {"type": float, "metavar": "ALPHA", "help": "See --floor."}}
FAMILIES = r"(DiT|MaskDiT|MDT|MDTv2|SD-DiT)-\w+/\d"
MOST_OUTLIERS = 8                               # named in the picture
APART = 0.09                                    # of the axis's height, between two arrows
NO_ARROWS = ("Each published point is a paper's own recipe (batch, sampler, formulation, code): single points get no arrows, and nothing is "
             "interpolated between different papers' recipes.")


def draw(table: pd.DataFrame, options: SimpleNamespace, overlay: Overlay | None = None) -> style.Drawing:
    """The figure, its points, its caption and a card with every multiplier.

    Raises:
        UserError: the scores differ in more than the variant, runs of a model and variant in more than their seed, or the cost is unknown.
    """
    papers = published.is_published(table)
    usable, left_out = _of_papers(table) if papers else study_table.scored(table, variant_table.SHARED)
    usable, alone = (usable, "") if papers else _with_rivals(usable)
    usable, unknown = costs.known(usable, options.cost)
    usable = usable.assign(cost=costs.values(usable, options.cost, options.price))
    found = [] if papers else multipliers(usable, options)
    if overlay is not None:
        overlay = overlay.known(costs.column_of(options.cost), costs.LABELS[options.cost].split(" (")[0].lower())
        overlay = Overlay(overlay.rows.assign(cost=costs.values(overlay.rows, options.cost, options.price)), overlay.left_out)
    sped = [] if papers else speedups(usable, options)
    lines = style.model_lines(list(usable["model"].unique()))
    with style.paper():
        figure, axes = style.new_axes(height=4.9)
        _curves(axes, usable, lines, papers)
        drawn = published_overlay.shown(usable, overlay)
        costs.axis(axes, drawn["cost"], options.cost)
        panels.score_axis([axes], style.score_label(usable), drawn["score"])
        handles, kinds = _handles(usable, lines, papers)
        published_overlay.curves(axes, overlay, "cost")
        panels.legend(figure, handles + published_overlay.handles(overlay), columns=4, break_after=kinds)
        arrows = _arrows(axes, found)
        _words(axes, usable, arrows, [run for one in found for run in one.outliers.runs], papers, overlay)
    effective = "".join(f" {model.removeprefix('DiT-')}: {one.sentence}." for model, one in sped)
    caption = _caption(usable, found, arrows, options, papers) + effective + left_out + alone + unknown + published_overlay.caption(overlay)
    card = {"cost": costs.words(options.cost, options.price), "multipliers": [one.card() for one in found],
            **({"speedups": [{"model": model, **one.card()} for model, one in sped]} if sped else {})} if found else None
    columns = [*COLUMNS, "source"] if papers else COLUMNS
    return style.Drawing(costs.file_name(NAME, options.cost), figure, published_overlay.points(usable, overlay, columns), caption, card)


def read(path: Path) -> pd.DataFrame:
    """As ``study_table.read``; for a folder of published tables, all that ditscale includes."""
    if Path(path).is_dir() and not list(Path(path).glob("*/run.json")) and (Path(path) / published.TABLES["dit"]).exists():
        rows = published.load(list(published.TABLES))
        return rows[rows["verified"] == published.VERIFIED].reset_index(drop=True)
    return study_table.read(path)


def multipliers(usable: pd.DataFrame, options: SimpleNamespace) -> list[Multiplier]:
    """The multiplier of each variant over ``options.over``, for models that both have; empty if there is nothing to compare."""
    variants = variant_table.variants_in_order(usable)
    if options.over not in variants:
        if options.over != variant_table.BASELINE:
            raise UserError(f"--over {options.over}: no such variant; there are {', '.join(variants)}")
        return []
    study_table.require_columns(usable, ("recipe",))
    for (model, variant), own in usable.groupby(["model", "variant"], sort=False):
        if own["recipe"].nunique() > 1:
            raise UserError(f"{model} {variant} was trained by {own['recipe'].nunique()} recipes, which are not repetitions: keep one with "
                            f"--where recipe={own['recipe'].iloc[0]} (and the other variants' recipes in a separate table), or draw "
                            "frontier.py, where each is a cell")
    of_model = {variant: set(usable.loc[usable["variant"] == variant, "model"]) for variant in variants}
    study = Study(options.study, usable)
    return [study.multiplier(variant, over=options.over, cost=options.cost, price=options.price)
            for variant in variants if variant != options.over and of_model[variant] & of_model[options.over]]


def speedups(usable: pd.DataFrame, options: SimpleNamespace) -> list[tuple[str, Speedup]]:
    """The effective speed-up of each variant and model at equal cost, if ``--floor`` and ``--exponent`` are given."""
    floor, exponent = getattr(options, "floor", None), getattr(options, "exponent", None)
    if floor is None and exponent is None:
        return []
    if floor is None or exponent is None:
        raise UserError("give both --floor E and --exponent ALPHA of the law E + A C^-ALPHA of the loss, or neither")
    if (usable["metric"] != LOSS).any():
        raise UserError(f"--floor and --exponent are for validation losses; choose them with --where metric={LOSS}")
    study = Study(options.study, usable)
    return [(model, one) for variant in variant_table.variants_in_order(usable) if variant != options.over
            for model, one in study.speedup(variant, over=options.over, floor=floor, exponent=exponent, cost=options.cost, price=options.price).items()]


def _with_rivals(usable: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The models with two variants or more, if there are any, and a sentence on the others."""
    rivals = usable.groupby("model")["variant"].transform("nunique") > 1
    if rivals.all() or not rivals.any():
        return usable, ""
    alone = ", ".join(dict.fromkeys(usable.loc[~rivals, "model"].map(study_table.short_name)))
    return usable[rivals].reset_index(drop=True), f" Left out, trained with only one variant: {alone}."


def _of_papers(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The largest set of published results with one resolution, guidance and number of samples; the caption names other differences."""
    kinds = table.groupby(["resolution", "guidance_scale", "samples", "block"], sort=False, dropna=False).ngroup()
    kept = table[(kinds == kinds.value_counts(sort=False).idxmax()) & table["model"].str.fullmatch(FAMILIES)].reset_index(drop=True)
    if kept.empty:
        raise UserError("no published result of DiT, MaskDiT, MDT or SD-DiT is left; choose rows with --where")
    first, left = kept.iloc[0], len(table) - len(kept)
    guided = "unguided" if first["guidance_scale"] == 1 else f"guidance {first['guidance_scale']:g}"
    return kept, (f" Of {len(table)} results these are the {len(kept)} at {first['resolution']} px, {guided}, of DiT, MaskDiT, MDT and "
                  f"SD-DiT; choose others with --where.") if left else ""


def _curves(axes, usable: pd.DataFrame, lines: dict, papers: bool) -> None:
    for (model, variant), own in usable.groupby(["model", "variant"], sort=False):
        look = panels.Look(style.variant_color(variant), *lines[model])
        if papers:
            for _, run in own.groupby("run_id"):
                run = run.sort_values("cost")
                axes.plot(run["cost"], run["score"], color=look.color, linewidth=0.9, linestyle=(0, (1, 2)), zorder=2)
                axes.plot(run["cost"], run["score"], linestyle="", marker=published_overlay.MARKER, markersize=10, color=look.color, zorder=3,
                          markeredgecolor=style.PAPER, markeredgewidth=0.5)
        elif own["run_id"].nunique() == 1:
            run = own.sort_values("cost")
            panels.run_curve(axes, run["cost"].to_numpy(), run["score"].to_numpy(), run["final"].to_numpy(), look)
        else:
            _seeds(axes, own, look)


def _seeds(axes, own: pd.DataFrame, look: panels.Look) -> None:
    """Seeds as light points, their geometric mean at each number of images, and with three seeds or more the interval of that mean; of many
    seeds the median and a band.
    """
    if own["run_id"].nunique() > seeds.MOST_LINES and len(found := seeds.spread(own, "images_seen")):
        at_images = np.exp(np.log(own["cost"]).groupby(own["images_seen"]).mean())
        panels.band(axes, np.column_stack([at_images[found[:, 0]], found[:, 1:]]), look, 4.0)
        return
    axes.plot(own["cost"], own["score"], linestyle="", marker=look.marker, markersize=3.2, color=look.color, alpha=0.35, markeredgewidth=0,
              zorder=2)
    mean = seeds.over_seeds(own, "images_seen")
    cost = np.exp(np.log(own["cost"]).groupby(own["images_seen"]).mean())[mean["x"]].to_numpy()
    axes.plot(cost, mean["mean"], color=look.color, linestyle=look.dashes, linewidth=look.width, marker=look.marker, markersize=4.0, zorder=3)
    if mean["low"].notna().any():
        axes.fill_between(cost, mean["low"], mean["high"], color=look.color, alpha=0.13, linewidth=0, zorder=1)


def _handles(usable: pd.DataFrame, lines: dict, papers: bool) -> tuple[list[Line2D], int]:
    variants = panels.variant_handles(usable)
    models = [panels.handle(panels.Look(style.MUTED, *line), study_table.short_name(model)) for model, line in lines.items()]
    return variants + ([] if papers else models), len(variants)


@dataclass(frozen=True)
class Arrow:
    """One arrow at a score: for a verdict on the whole range, or on one part of it."""

    one: Multiplier
    at: AtTarget
    part: Part | None = None

    @property
    def real(self) -> bool:
        return self.part is not None or (self.one.overall.verdict == REAL and self.at.verdict == REAL)

    @property
    def ink(self) -> str:
        return style.INK if self.real else style.MUTED

    @property
    def text(self) -> str:
        """``masked: 1.8 × cheaper (1.6 to 2.0)``, then the scores where it holds, or the word INCONCLUSIVE."""
        estimate = self.at if self.part is None else self.part.mean
        cheaper = estimate.value >= 1
        value, ends = (estimate.value, estimate.interval) if cheaper else (1 / estimate.value, None)
        if not cheaper and estimate.interval:
            ends = type(estimate.interval)(1 / estimate.interval.high, 1 / estimate.interval.low)
        between = f" ({ends.low:#.2g} to {ends.high:#.2g})" if ends else ""
        return f"{self.one.variant}: {value:#.2g} × {'cheaper' if cheaper else 'dearer'}{between}{self._below}"

    @property
    def _below(self) -> str:
        if self.part is None:
            return "" if self.real else "\nINCONCLUSIVE"
        elsewhere = ", INCONCLUSIVE elsewhere" if self.one.overall.verdict == IN_PART else ""
        return f"\n{self.part.where(self.one.score_unit)}{elsewhere}"


def _arrows(axes, found: list[Multiplier]) -> list[Arrow]:
    """Draws each multiplier's arrows at the middle of their scores, or at the nearest score away from the arrows above and below."""
    low, high = np.log(axes.get_ylim())
    taken: list[float] = []
    arrows: list[Arrow] = []
    for one in found:
        for part, scores in _places(one):
            middle = len(scores) // 2
            order = sorted(range(len(scores)), key=lambda i: abs(i - middle))
            free = [i for i in order if all(abs(math.log(scores[i].target) - y) > APART * (high - low) for y in taken)]
            at = scores[(free or order)[0]]
            taken.append(math.log(at.target))
            arrows.append(Arrow(one, at, part))
            axes.annotate("", xy=(at.variant_cost, at.target), xytext=(at.baseline_cost, at.target), zorder=5,
                          arrowprops={"arrowstyle": "-|>", "color": arrows[-1].ink, "linewidth": 1.7, "shrinkA": 0, "shrinkB": 0})
    return arrows


def _places(one: Multiplier) -> list[tuple[Part | None, list[AtTarget]]]:
    """The scores at which an arrow may be drawn: those of the whole range, or of each part that is REAL."""
    if one.in_parts:
        return [(part, [at for at in one.course.points if min(part.scores) <= at.target <= max(part.scores)])
                for part in one.course.real_parts]
    usable = [at for at in one.targets if at.status.ok]
    return [(None, usable)] if usable else []


def _words(axes, usable: pd.DataFrame, arrows: list[Arrow], outliers: list[str], papers: bool, overlay: Overlay | None) -> None:
    """The arrows' texts, the names of outlying runs at their ends, and the names of published models."""
    places = [arrow.at for arrow in arrows]
    points = [(math.sqrt(at.variant_cost * at.baseline_cost), at.target) for at in places]
    texts, colors, radii = [arrow.text for arrow in arrows], [arrow.ink for arrow in arrows], [2.0] * len(arrows)
    arrows_along = [[(at.variant_cost, at.target), (at.baseline_cost * 1.0001, at.target)] for at in places]
    drawn = _drawn(usable)
    along = runs.between([*arrows_along, *runs.curves(drawn, "cost", "score")])
    far = usable[usable["run_id"].isin(outliers[:MOST_OUTLIERS])].sort_values("cost").groupby("run_id").tail(1)
    points, texts = points + list(zip(far["cost"], far["score"])), texts + [f"outlier {run}" for run in far["run_id"]]
    radii, colors = radii + [3.0] * len(far), colors + [style.INK] * len(far)
    markers = list(zip(drawn["cost"], drawn["score"], [4.0] * len(drawn)))
    if papers:
        last = usable.sort_values("cost").groupby("model", sort=False).tail(1)
        points, texts = points + list(zip(last["cost"], last["score"])), texts + list(last["model"])
        radii, colors = radii + [5.0] * len(last), colors + [style.INK] * len(last)
    others = published_overlay.names(overlay, "cost")
    points, texts, radii = points + others[0], texts + others[1], radii + others[2]
    colors, markers = colors + [style.INK] * len(others[0]), markers + published_overlay.markers(overlay, "cost")
    if points:
        labels.place(axes, points, texts, radii, markers=markers, crossed=along, size_pt=8.5, colors=colors)


def _drawn(usable: pd.DataFrame) -> pd.DataFrame:
    """The rows that labels avoid: where many seeds are drawn as a band, its middle instead of each seed."""
    many = usable.groupby(["model", "variant"])["run_id"].transform("nunique") > seeds.MOST_LINES
    if not many.any():
        return usable
    middle = usable[many].groupby(["model", "variant", "images_seen"], as_index=False)[["cost", "score"]].mean()
    return pd.concat([usable[~many], middle.assign(run_id=middle["model"] + middle["variant"])], ignore_index=True)


def _caption(usable: pd.DataFrame, found: list[Multiplier], arrows: list[Arrow], options: SimpleNamespace, papers: bool) -> str:
    cost = costs.words(options.cost, options.price)
    if papers:
        sources = "; ".join(dict.fromkeys(usable["source"]))
        different = [name for name in ("formulation", "nfe") if usable[name].nunique() > 1]
        parts = [f"Published {style.metric_name(usable)} against {cost}, one star per result, color for the training variant, dotted lines "
                 f"between results of one training. {NO_ARROWS}", f"They differ in {' and '.join(different)}." if different else "", f"Sources: {sources}."]
        return " ".join(filter(None, parts))
    counts = usable.groupby(["model", "variant"])["run_id"].nunique()
    parts = [f"{style.metric_name(usable)} against {cost}, evaluations not included: one curve per model and variant, color for the "
             "variant, line and marker for the model. " + _seed_words(counts)]
    if arrows:
        where = ", ".join(f"{arrow.one.variant} at {style.score_text(arrow.at.target)}" for arrow in arrows)
        parts.append(f"Arrows go from what {found[0].baseline} paid for a score to what a variant paid ({where}), between checkpoints of each "
                     "run; dark if the difference is REAL, at that score and over all scores compared, otherwise in gray.")
        if any(arrow.part for arrow in arrows):
            parts.append("If a difference changes sign or is REAL in part, each part that is REAL has an arrow and its numbers are "
                         "the mean over that part.")
    parts += [one.sentence if one.sentence.endswith(".") else f"{one.sentence}." for one in found]
    if not found:
        parts.append("No arrow: there are no two variants of one model to compare.")
    parts.append(f"Scores have passport {usable['passport'].iloc[0]}.")
    return " ".join(parts)


def _seed_words(counts: pd.Series) -> str:
    if counts.max() == 1:
        return "One seed per curve: no difference here is distinguishable from seed noise."
    if counts.max() > seeds.MOST_LINES:
        return seeds.sentence(counts)
    band = "bands are Student's 95 % intervals of that mean." if counts.max() >= 3 else "two seeds give no interval."
    each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return f"Light points are seeds, {each} per curve, the line is their geometric mean; {band}"


SCRIPT = script.figure(__doc__, draw, overlay=True, options=OPTIONS, rows=read)
main = SCRIPT.main
