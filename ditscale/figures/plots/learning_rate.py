"""Final loss (or score) against learning rate for each model, with the best rate and whether it moves with size.

The best rate is the vertex of a parabola of ln loss in log2 rate, through at least four stable rates. A run that diverged has no final loss:
it is marked at the top, where the usable rates end. With a validation loss in the study, that is drawn; `--where metric=NAME` draws a score.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import panels, script, study_table, style
from ditscale.models.sizes import parse_model_name
from ditscale.rundir import FAILED, RunDir
from ditscale.scaling.learning_rate import LEAST_RATES, SAME, Optimum, RateLaw, Transfer, optimum, rate_law, transfer
from ditscale.studies.table import ledger

NAME = "learning_rate"
COLUMNS = ["run_id", "model", "variant", "parametrization", "lr", "seed", "images_seen", "metric", "score"]
HIGHEST = 2.5                                                                  # the largest loss drawn, in multiples of the lowest
KIND = ["variant", "parametrization"]
MOST_COLUMNS = 3                                                               # panels side by side; more would make labels overlap


def read(study: Path) -> pd.DataFrame:
    """As ``study_table.read``; runs that failed without a final evaluation are rows without a score, except in a table, which does not have them."""
    table = study_table.read(study)
    if Path(study).is_file() or ledger.landed_table(Path(study)):
        return table
    facts = ledger.collect_runs(study)
    ended = set(table.loc[table["final"].astype(bool), "run_id"])
    failed = facts[[run_id not in ended and RunDir(Path(study) / run_id).status()["state"] == FAILED for run_id in facts["run_id"]]]
    more = failed.assign(final=True, metric=LOSS if (table["metric"] == LOSS).any() else table["metric"].iloc[0])
    return pd.concat([table, more], ignore_index=True) if len(more) else table


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """One row per run at its end, in ``COLUMNS``; of one metric: the validation loss, if there is one.

    Raises:
        UserError: no model was trained at several rates, or a score for which higher is better.
    """
    study_table.require_columns(table, ("lr", "final"))
    metrics = list(table["metric"].unique())
    if len(metrics) > 1:
        table = table[table["metric"] == (LOSS if LOSS in metrics else metrics[0])]
    rows = table[table["final"].astype(bool)].assign(**{} if "parametrization" in table else {"parametrization": "standard"})
    rows = _with_bases(rows.assign(parametrization=rows["parametrization"].replace("", "standard")))
    most = rows.groupby(["model", *KIND])["lr"].nunique()
    if most.empty or most.max() < 2:
        raise UserError("no model of this study was trained at several learning rates (train.lr)")
    study_table.require_comparable(rows.dropna(subset="score"), tuple(name for name in ("metric", "passport", "formulation", "data") if name in rows))
    for name in ("series", "images_seen", "global_batch", "block"):                # seeds of one rate differ in nothing but the seed
        kept = rows.dropna(subset=["score", name]) if name in rows else rows[:0]
        for (model, *kind), own in kept.groupby(["model", *KIND]):
            if own[name].nunique() > 1:
                raise UserError(f"{model} ({', '.join(map(str, kind))}) has runs of several {'recipes' if name == 'series' else name}, which are no sweep over "
                                f"one rate: choose with --where {name}={own[name].iloc[0]}; there are {', '.join(map(str, own[name].unique()))}")
    return rows[COLUMNS].reset_index(drop=True)


def _with_bases(rows: pd.DataFrame) -> pd.DataFrame:
    """A standard model of the base size counts for the other parametrization too, which is the same there."""
    if "base_width" not in rows:
        return rows
    found = [rows]
    other = rows[rows["parametrization"] != "standard"]
    for (kind, width, depth), _ in other.groupby(["parametrization", "base_width", "base_depth"], dropna=False):
        is_base = np.array([(dims.hidden_size == width and (math.isnan(depth) or dims.depth == depth)) for dims in
                   (parse_model_name(model).dims for model in rows["model"])], bool)
        found.append(rows[is_base & (rows["parametrization"] == "standard")].assign(parametrization=kind))
    return pd.concat(found, ignore_index=True)


def optima(rows: pd.DataFrame, models: list[str]) -> dict[str, Optimum]:
    """Of one variant and parametrization, by model in the given order."""
    by_model = {model: rows[rows["model"] == model] for model in models}
    return {model: optimum(own["lr"], own["score"].astype(float)) for model, own in by_model.items() if own["lr"].nunique() > 1}


def draw(table: pd.DataFrame) -> style.Drawing:
    """The figure, its points, its caption and the verdicts.

    Raises:
        UserError: as ``ends``.
    """
    rows = ends(table)
    models = list(table.groupby("model")["macs"].min().sort_values().index) if "macs" in table else sorted(rows["model"].unique())
    kinds = {kind: own for kind, own in rows.groupby(KIND, sort=True) if own.groupby("model")["lr"].nunique().max() > 1}
    found = {kind: optima(own, models) for kind, own in kinds.items()}
    verdicts = {kind: transfer(one) for kind, one in found.items()}
    macs = table.groupby("model")["macs"].min().to_dict() if "macs" in table else {}
    laws = {kind: rate_law(one, macs) if macs else None for kind, one in found.items()}
    colors = dict(zip(models, style.ramp(len(models))))
    top = HIGHEST * rows["score"].min()                                        # a diverged loss would leave no room for the valleys
    with style.paper():
        columns = min(len(kinds), MOST_COLUMNS)
        figure, grid = panels.grid(math.ceil(len(kinds) / columns), columns, row_height=3.4 if len(kinds) <= columns else 2.6,
                                   legend_rows=1 + len(models) // 5, sharey=True)
        for axes in grid.flat[len(kinds):]:
            axes.set_visible(False)
        for axes, (kind, own) in zip(grid.flat, kinds.items()):
            _panel(axes, own, found[kind], colors, top, 5 if len(kinds) < 3 else 3)
            axes.set_xlabel("Learning rate" if len(kinds) == 1 else f"Learning rate,\n{_name(kind, kinds)}")
        for axes in grid[:, 0]:
            axes.set_ylabel(style.score_label(table[table["metric"] == rows["metric"].iloc[0]]))
        handles = [Line2D([], [], color=colors[model], marker="o", markersize=4, label=study_table.short_name(model)) for model in models]
        if not (rows["score"] <= top).all():
            handles.append(Line2D([], [], linestyle="", marker="x", color=style.MUTED, label="above, or failed"))
        panels.legend(figure, handles)
    return style.Drawing(NAME, figure, rows, _caption(rows, kinds, found, verdicts, laws), _card(found, verdicts, laws))


def _panel(axes, rows: pd.DataFrame, found: dict[str, Optimum], colors: dict[str, str], top: float, most_ticks: int) -> None:
    axes.set(xscale="log", yscale="log")
    axes.set_xscale("log", base=2)
    is_shown = rows["score"] <= top
    finite = rows[is_shown]
    for model, own in finite.groupby("model"):
        axes.plot(own["lr"], own["score"], linestyle="", marker="o", markersize=3.5, color=colors[str(model)], alpha=0.55)
        means = np.exp(np.log(own["score"]).groupby(own["lr"]).mean())
        best = found.get(str(model))
        if best is None or best.reason:
            axes.plot(means.index, means.to_numpy(), color=colors[str(model)], linewidth=1.0)
            continue
        across = np.linspace(*best.used, 60)
        axes.plot(2.0**across, best.loss(across), color=colors[str(model)])
        if best.has_interval:
            axes.plot([2.0**best.low, 2.0**best.high], [best.loss(best.log2_rate)] * 2, color=colors[str(model)], linewidth=4, alpha=0.5)
        axes.plot(best.rate, best.loss(best.log2_rate), marker="D", color=colors[str(model)], markeredgecolor=style.INK)
    for model, own in rows[~is_shown].groupby("model"):
        axes.plot(own["lr"], [0.98] * len(own), linestyle="", marker="x", color=colors[str(model)], transform=axes.get_xaxis_transform())
    ticks = sorted(rows["lr"].unique())
    ticks = ticks[::max(1, math.ceil(len(ticks) / most_ticks))]
    axes.set_xticks(ticks, [f"{rate:.2g}" for rate in ticks])
    axes.minorticks_off()
    style.plain_log_ticks(axes.yaxis, *axes.get_ylim())


def _name(kind: tuple, kinds: dict) -> str:
    """Of a panel: what differs between panels."""
    return ", ".join(str(value) for at, value in enumerate(kind) if len({other[at] for other in kinds}) > 1)


def _caption(rows: pd.DataFrame, kinds: dict, found: dict[tuple, dict[str, Optimum]], verdicts: dict[tuple, Transfer],
             laws: dict[tuple, RateLaw | None]) -> str:
    sentences = []
    for kind, verdict in verdicts.items():
        best = ", ".join(f"{study_table.short_name(model)} {one.rate:.3g}" + (f" ({2**one.low:.3g} to {2**one.high:.3g})" if one.has_interval else "")
                         for model, one in found[kind].items() if not one.reason)
        name = f"{_name(kind, kinds)}: " if len(kinds) > 1 else ""
        law = laws[kind]
        over = f" The best rate goes as MACs to the power {law.exponent:.2f} ({law.low:.2f} to {law.high:.2f})." if law else ""
        sentences.append(f"{name}{verdict.verdict}: {verdict.reason}." + (f" Best rates: {best}." if best else "") + over)
    return (f"{rows['metric'].iloc[0]} at the end of training against the learning rate: a dot is a run, a curve the parabola of its logarithm in log2 "
            f"rate through the stable rates near the best one ({LEAST_RATES} or more), a diamond the vertex with its 95 % interval (Fieller). "
            f"{' '.join(sentences)} "
            f"TRANSFERS: every interval of the shift lies within {SAME:g} octaves; SHIFTS: one lies outside.")


def _card(found: dict[tuple, dict[str, Optimum]], verdicts: dict[tuple, Transfer], laws: dict[tuple, RateLaw | None]) -> dict:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {", ".join(kind): {
        "verdict": verdicts[kind].verdict, "reason": verdicts[kind].reason,
        "exponent_of_macs": [law.exponent, law.low, law.high] if (law := laws[kind]) else None,
        "log2_shifts": {model: [number(value) for value in shift] for model, shift in verdicts[kind].shifts.items()},
        "models": {model: {"log2_rate": number(one.log2_rate), "low": number(one.low), "high": number(one.high), "rates": one.rates,
                           "log2_edge": number(one.edge), "reason": one.reason} for model, one in own.items()}} for kind, own in found.items()}


SCRIPT = script.figure(__doc__, draw, rows=read, every_metric=True)
main = SCRIPT.main
