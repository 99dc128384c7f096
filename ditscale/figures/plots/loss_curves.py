"""Training loss of each run, each logged term separately, over the whole run and its early part, as in DiT's Figure 13 (arXiv 2212.09748).

A logged value is the mean over its log interval. The smooth curve is the mean of the values in a window around each point.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import panels, runs, script, seeds, study_table, style
from ditscale.rundir import read_lines
from ditscale.studies.table import ledger

NAME = "loss_curves"
PREFIX = "loss/"
WINDOW_SHARE = 0.02                     # of the longest run, for the smooth curve
EARLY_SHARE, EARLY_LINES = 0.1, 5       # the early part: this share of the longest run, but at least this many log lines
MOST_CURVES = 40                        # more runs than these are drawn as medians and bands
SETTLED_SHARE = 0.02                    # of a run: the axis of the whole run ignores values before it
RUN_COLUMNS = ["run_id", "model", "size", "patch_size", "variant", "block", "seed", "parameters"]
COLUMNS = [*RUN_COLUMNS, "images_seen", "term", "loss", "smooth"]


def read(study: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Every logged loss term of the table's runs, one row per log line and term: ``RUN_COLUMNS``, images_seen, term, loss.

    Raises:
        UserError: no run has logged one.
    """
    facts = table.set_index("run_id")[RUN_COLUMNS[1:]].to_dict("index")
    rows = [{"run_id": run.run_id, **facts[run.run_id], "images_seen": line["images_seen"],
             "term": name.removeprefix(PREFIX), "loss": value}
            for run in ledger.run_dirs(study) if run.run_id in facts
            for line in read_lines(run.metrics) for name, value in line.items() if name.startswith(PREFIX)]
    if not rows:
        raise UserError(f"no run of {study} has logged a loss yet (metrics.jsonl)")
    return pd.DataFrame(rows)


def draw(lines: pd.DataFrame, window: float | None = None) -> style.Drawing:
    """The figure, its points and its caption.

    Args:
        lines: as ``read`` returns them.
        window: of the smooth curve, in images; default 2 % of the longest run.
    """
    lines, left_out = _compared(lines)
    end, early_end = lines["images_seen"].max(), _early_end(lines["images_seen"])
    window = WINDOW_SHARE * end if window is None else window
    ends = np.flatnonzero(np.diff(lines.groupby(["run_id", "term"], sort=False).ngroup())) + 1
    curves = zip(*(np.split(lines[name].to_numpy(float), ends) for name in ("images_seen", "loss")))
    lines = lines.assign(smooth=np.concatenate([smoothed(seen, loss, window) for seen, loss in curves]))
    many = lines["run_id"].nunique() > MOST_CURVES
    looks, terms = panels.run_looks(lines, markers=False), list(dict.fromkeys(lines["term"]))
    with style.paper():
        figure, grid = panels.grid(len(terms), 2, row_height=1.5 if len(terms) > 1 else 3.2, legend_rows=2, sharex="col")
        for (whole, early), term in zip(grid, terms):
            own = lines[lines["term"] == term]
            (_bands if many else _curves)((whole, early), own, looks)
            _loss_axis(whole, own[own["images_seen"] > SETTLED_SHARE * end])
            _loss_axis(early, own[own["images_seen"] <= early_end])
            whole.set_ylabel(f"{term.replace('_', ' ')}\nloss")
        _images_axis(grid[-1][0], end, "Images seen, whole run")
        _images_axis(grid[-1][1], early_end, "Images seen, early part")
        figure.align_ylabels()
        panels.legend(figure, looks.handles, break_after=looks.kinds)
    return style.Drawing(NAME, figure, lines[COLUMNS], _caption(lines, terms, looks, window, early_end, many) + left_out)


def _early_end(seen: pd.Series) -> float:
    """Where the early part ends, in images."""
    logged = np.unique(seen)
    return max(EARLY_SHARE * logged[-1], logged[min(EARLY_LINES, len(logged)) - 1])


def smoothed(seen: np.ndarray, loss: np.ndarray, window: float) -> np.ndarray:
    """The mean of the losses within half a window of images on each side of each line, ``(n,)``; windows at the ends are shorter."""
    sums = np.concatenate([[0.0], np.cumsum(loss)])
    first, past = np.searchsorted(seen, seen - window / 2), np.searchsorted(seen, seen + window / 2, side="right")
    return (sums[past] - sums[first]) / (past - first)


def _compared(lines: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Each run's lines in order. If there are several variants, only the models that have more than one, as other models do not
    compare variants."""
    left_out = ""
    if lines["variant"].nunique() > 1:
        kept = lines[lines.groupby("model")["variant"].transform("nunique") > 1]
        if 0 < len(kept) < len(lines):
            gone = sorted(set(lines["model"]) - set(kept["model"]))
            lines, left_out = kept, f" Left out, with only one variant: {', '.join(gone)}."
    order = {term: i for i, term in enumerate(dict.fromkeys(lines["term"]))}
    keys = lines.assign(_term=lines["term"].map(order)).sort_values(["parameters", "run_id", "_term", "images_seen"])
    return keys.drop(columns="_term").reset_index(drop=True), left_out


def _curves(both, own: pd.DataFrame, looks: panels.Looks) -> None:
    """Draws each run's logged values in a light color and the smooth curve over them; one curve if they are equal."""
    for run_id, seen, loss, smooth in runs.per_run(own, "run_id", "images_seen", "loss", "smooth"):
        look = looks.runs[run_id[0]]
        for axes in both:
            if not np.allclose(loss, smooth):
                axes.plot(seen, loss, color=look.color, linewidth=0.5, alpha=0.3, zorder=1)
            axes.plot(seen, smooth, color=look.color, linestyle=look.dashes, linewidth=look.width, zorder=2)


def _bands(both, own: pd.DataFrame, looks: panels.Looks) -> None:
    """Draws the median of the smooth curves of each model, variant and block design, and a band over its runs."""
    for _, rows in own.groupby(["model", "variant", "block"], sort=False, dropna=False):
        look, found = looks.runs[rows["run_id"].iloc[0]], seeds.spread(rows, "images_seen", "smooth")
        for axes in both:
            panels.band(axes, found, look, 0.0)


def _loss_axis(axes, own: pd.DataFrame) -> None:
    """Limits set by the smooth curves, so a spike leaves the panel. Logarithmic if they span a factor of ten."""
    if not own.empty:
        panels.value_axis(axes, own["smooth"], panels.log_or_linear(own["smooth"]), pad=0.06, apart=0.12, bins=6)


def _images_axis(axes, end: float, label: str) -> None:
    axes.set(xlabel=label, xlim=(0, end))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(panels.short_counts())


def _caption(lines: pd.DataFrame, terms: list[str], looks: panels.Looks, window: float, early_end: float, many: bool) -> str:
    curves = "one curve per run" if not many else (
        f"for each model and variant the median over its runs ({lines['run_id'].nunique()} in all) and a band that holds 90 % of them")
    smooth = (f"The curves are means of logged values in a window of {style.short_count(window)} images" if many else
              f"Light lines are the values as logged, each the mean of its log interval; the others their mean in a window of "
              f"{style.short_count(window)} images" if not np.allclose(lines["loss"], lines["smooth"]) else
              f"Values as logged, each the mean of its log interval: a window of {style.short_count(window)} images never holds two")
    apart = "each logged term in its own row" if len(terms) > 1 else f"term {terms[0]}"
    return (f"Training loss, {apart}, over the whole run at the left and its first {style.short_count(early_end)} images at the right, in the "
            f"layout of DiT's Figure 13: {curves}, {looks.words}. {smooth}. Losses are weighted as in training, on training images; terms of "
            "different variants are not the same task.")


def _window(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _draw_of(table: pd.DataFrame, arguments: SimpleNamespace) -> style.Drawing:
    study_table.require_comparable(table, ("formulation", "data", "resolution"))
    return draw(read(arguments.study, table), arguments.window)


OPTIONS = {"window": {"type": _window, "metavar": "IMAGES", "help": "Width of the smoothing window.  [default: 2 % of the longest run]"}}
SCRIPT = script.figure(__doc__, _draw_of, options=OPTIONS, rows=study_table.read_runs)
main = SCRIPT.main
