"""The critical batch size over training, as measured in each run, and next to it the one that a sweep over batch sizes gives.

In the run: noise of the gradient against its size, plain and as Adam scales it, of runs with several micro batches per batch
(`resources.micro_batch`, or several ranks). From a sweep: images that each batch size needs for the same loss, at the best of its learning rates.
"""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.figures.kit import panels, runs, script, study_table, style
from ditscale.scaling.critical_batch import LEAST_BATCHES, WasteLaw, waste_law
from ditscale.scaling.curves import Runs

NAME = "critical_batch"
MEASURED = {"critical_batch": "gradient", "critical_batch_adam": "as Adam scales it"}
COLUMNS = ["run_id", "model", "variant", "seed", "lr", "global_batch", "micro_batch", "images_seen", *MEASURED]
REACHED = ["model", "variant", "global_batch", "seed", "lr", "images"]


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with a critical batch size, one for each evaluated checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    study_table.require_columns(table, ("critical_batch",))
    order = [name for name in ("parameters", "run_id", "images_seen") if name in table]
    rows = table.drop_duplicates(["run_id", "images_seen"]).sort_values(order)
    rows = rows.assign(**{name: rows[name].astype(float) if name in rows else math.nan for name in MEASURED})
    rows = rows[rows[list(MEASURED)].notna().any(axis=1)]
    if rows.empty:
        raise UserError("no run of this study has measured its critical batch size: that takes at least two micro batches per batch, so a smaller "
                        "resources.micro_batch, or several ranks")
    return rows


def reached(table: pd.DataFrame, loss: float | None = None) -> dict[tuple[str, str], tuple[float, pd.DataFrame]]:
    """The loss, and the images after which the best rate of each batch size and seed reached it (``REACHED``), by model and variant with at least
    three batch sizes. The loss is ``loss``, or the lowest that every batch size and seed reached at the rate that is best for it."""
    if not {*REACHED[:-1], "metric"} <= set(table):
        return {}
    rows = table[table["metric"] == (LOSS if (table["metric"] == LOSS).any() else table["metric"].iloc[0])]
    found = {}
    for kind, own in rows[rows["score"] > 0].groupby(["model", "variant"], sort=False):
        if own["global_batch"].nunique() < LEAST_BATCHES:
            continue
        study_table.require_comparable(own, tuple(name for name in ("metric", "passport", "formulation", "data") if name in own))
        curves = Runs(own["images_seen"].to_numpy(float), own["score"].to_numpy(float), own["run_id"].to_numpy()).curves()
        facts = own.drop_duplicates("run_id").set_index("run_id").loc[[curve.run for curve in curves], REACHED[:-1]]
        ends = pd.Series([curve.end for curve in curves], index=facts.index)
        level = ends.groupby([facts["global_batch"], facts["seed"]]).min().max() if loss is None else math.log(loss)
        points = facts.assign(images=np.exp([float(curve.log_cost_at(level)) for curve in curves])).dropna(subset="images")
        found[kind] = math.exp(level), points.loc[points.groupby(["global_batch", "seed"])["images"].idxmin()]
    return found


def at_an_end(table: pd.DataFrame, kind: tuple[str, str], points: pd.DataFrame) -> list[int]:
    """The batch sizes whose best rate, of any seed, is the lowest or highest of several that were tried."""
    own = table[(table["model"] == kind[0]) & (table["variant"] == kind[1])]
    tried = own.groupby("global_batch")["lr"].agg(["min", "max"])
    return sorted({int(batch) for batch, lr in zip(points["global_batch"], points["lr"])
                   if tried.loc[batch, "min"] < tried.loc[batch, "max"] and lr in tuple(tried.loc[batch])})


def draw(table: pd.DataFrame, loss: float | None = None) -> style.Drawing:
    """The figure, its points, its caption, and numbers by model.

    Raises:
        UserError: as ``measured``.
    """
    rows, swept = measured(table), reached(table, loss)
    laws = {kind: waste_law(points["global_batch"], points["images"]) for kind, (_, points) in swept.items()}
    ends = {kind: at_an_end(table, kind, points) for kind, (_, points) in swept.items()}
    shown = [name for name in MEASURED if rows[name].notna().any()]
    looks = _looks(rows)
    with style.paper():
        figure, [axes] = panels.grid(1, len(shown) + bool(swept), 3.0, legend_rows=1 + len(looks.handles) // 5)
        for panel, name in zip(axes, shown):
            _over_training(panel, _of_trunks(rows), name, looks, {law.critical for law in laws.values() if not law.reason})
        if swept:
            _sweep(axes[-1], swept, laws)
        axes[0].set_ylabel("Critical batch size (images)")
        lines = [Line2D([], [], color=style.MUTED, linestyle="--", label="from the sweep")] if any(not law.reason for law in laws.values()) else []
        panels.legend(figure, [*looks.handles, *lines])
    points = rows[[name for name in COLUMNS if name in rows]]
    return style.Drawing(NAME, figure, points, _caption(rows, looks, swept, laws, ends), _card(rows, swept, laws, ends))


def _looks(rows: pd.DataFrame) -> panels.Looks:
    """Colors for batch sizes if one model and variant has several, for models that differ only in their size, else as for other curves of runs."""
    kinds = rows.groupby(["model", "variant"]).ngroups
    batches = sorted(rows["global_batch"].dropna().unique()) if "global_batch" in rows else []
    if len(batches) > 1 and kinds == 1:
        return _colored(rows, "global_batch", {batch: f"batch {batch:g}" for batch in batches}, "batch size")
    alike = all(rows[name].nunique() == 1 for name in ("patch_size", "variant", "block"))
    if 1 < kinds <= len(style.MODEL_LINES) and alike:
        return _colored(rows, "model", {model: study_table.short_name(model) for model in dict.fromkeys(rows["model"])}, "model")
    return panels.run_looks(rows, markers=False)


def _colored(rows: pd.DataFrame, column: str, names: dict, what: str) -> panels.Looks:
    """A color for each value of a column of ``rows``, in the order of ``names``."""
    colors = dict(zip(names, style.ramp(len(names))))
    of_run = rows.drop_duplicates("run_id").set_index("run_id")[column]
    return panels.Looks({run: panels.Look(colors[value], marker="", width=0.8) for run, value in of_run.items()},
                        [panels.color_handle(color, names[value]) for value, color in colors.items()], len(colors), f"color for the {what}")


def _over_training(axes, rows: pd.DataFrame, name: str, looks: panels.Looks, swept: set[float]) -> None:
    axes.set(xscale="log", yscale="log")
    known = rows[rows[name] > 0]
    for run_id, seen, value in runs.per_run(known, "run_id", "images_seen", name):
        look = looks.runs[run_id[0]]
        axes.plot(seen, value, color=look.color, linestyle=look.dashes, linewidth=look.width, marker="." if len(seen) == 1 else "")
    for critical in swept:
        axes.axhline(critical, color=style.MUTED, linestyle="--", linewidth=1.2, zorder=1)
    panels.images_axis(axes, known["images_seen"], f"Images seen,\n{MEASURED[name]}")
    panels.value_axis(axes, pd.concat([known[name], pd.Series(list(swept), dtype=float)]), True, 0.1, 0.12, 6)


def _sweep(axes, swept: dict, laws: dict[tuple[str, str], WasteLaw]) -> None:
    """Images to the loss against the batch size, in multiples of the law's least, or as they are without a law."""
    axes.set(xscale="log", yscale="log")
    colors, drawn = dict(zip(swept, style.ramp(len(swept)))), []
    for kind, (_, points) in swept.items():
        axes.plot(points["global_batch"], points["images"], linestyle="", marker="o", markersize=3.5, color=colors[kind], alpha=0.6)
        drawn += list(points["images"])
        if not laws[kind].reason:
            across = np.geomspace(points["global_batch"].min(), points["global_batch"].max(), 60)
            axes.plot(across, laws[kind].images(across), color=colors[kind])
    if drawn:
        batches = sorted({batch for _, points in swept.values() for batch in points["global_batch"]})
        axes.set_xticks(batches[::-(-len(batches) // 5)], [f"{batch:g}" for batch in batches[::-(-len(batches) // 5)]])
        axes.minorticks_off()
        panels.value_axis(axes, pd.Series(drawn), True, 0.1, 0.12, 6)
        axes.yaxis.set_major_formatter(panels.short_counts())
    axes.set(xlabel="Batch size (images),\nthe sweep", ylabel="Images to the loss")


def _name(kind: tuple[str, str]) -> str:
    return f"{study_table.short_name(kind[0])}, {kind[1]}"


def _of_trunks(rows: pd.DataFrame) -> pd.DataFrame:
    """Without branches, which measure over the few steps of their decay, if their trunks have measured too."""
    whole = rows[~(rows["branch_images"] > 0)] if "branch_images" in rows else rows
    return rows if whole.empty else whole


def _ends(rows: pd.DataFrame):
    """The last row of each run by model and variant."""
    return _of_trunks(rows).groupby("run_id").tail(1).groupby(["model", "variant"], sort=False)


def _caption(rows: pd.DataFrame, looks: panels.Looks, swept: dict, laws: dict[tuple[str, str], WasteLaw], edges: dict[tuple[str, str], list[int]]) -> str:
    ends = _ends(rows)[list(MEASURED)].median()
    said = [f"{_name(kind)} " + ", ".join(f"{value:,.0f} ({MEASURED[name]})" for name, value in own.items() if value > 0)
            for kind, own in ends.iterrows()]
    words = (f"The critical batch size as each run measured it: tr S / |G|^2 of micro batches against the batch, both averaged over the last quarter of the "
             f"images seen, {looks.words}. At the end: {'; '.join(said)}."
             + (" Branches are in the CSV alone: they measure over the few steps of their decay." if len(_of_trunks(rows)) < len(rows) else ""))
    for kind, (loss, points) in swept.items():
        law = laws[kind]
        interval = f"{law.interval.low:,.0f} to {law.interval.high:,.0f}" if math.isfinite(law.interval.high) else f"at least {law.interval.low:,.0f}"
        words += (f" Sweep of {_name(kind)}, loss {loss:.4g} at the best rate of each batch size: " + (f"{law.reason}." if law.reason else
                  f"images = {law.least_steps:,.0f} (B + {law.critical:,.0f}), critical batch {law.critical:,.0f} (95 % interval {interval}; "
                  f"{len(points)} runs)."))
        if edges[kind]:
            words += (f" At batch size {', '.join(map(str, edges[kind]))} the best rate is the lowest or highest one tried: others may need fewer images.")
    return words


def _card(rows: pd.DataFrame, swept: dict, laws: dict[tuple[str, str], WasteLaw], edges: dict[tuple[str, str], list[int]]) -> dict:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    found: dict[str, dict] = {_name(kind): {"runs": len(own), **{name: number(float(own[name].median())) for name in MEASURED}}
                              for kind, own in _ends(rows)}
    for kind, law in laws.items():
        found.setdefault(_name(kind), {})["sweep"] = {
            "loss": swept[kind][0], "critical_batch": number(law.critical), "low": law.interval.low, "high": number(law.interval.high),
            "least_steps": number(law.least_steps), "sigma": number(law.sigma), "batches": law.batches, "runs": law.runs, "reason": law.reason,
            "best_rate_at_an_end": edges[kind]}
    return found


def _loss(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _draw_of(table: pd.DataFrame, arguments: SimpleNamespace) -> style.Drawing:
    return draw(table, arguments.loss)


OPTIONS = {"loss": {"type": _loss, "metavar": "LOSS", "help": "The loss of the sweep.  [default: the lowest that every batch size and seed reached]"}}
SCRIPT = script.figure(__doc__, _draw_of, options=OPTIONS, every_metric=True)
main = SCRIPT.main
