"""Style of all figures: colors, axes, number formats, output files.

The three patch colors, and those of the training variants and block designs, differ in lightness first and hue second, so they work in
grayscale and for color-blind readers.
``report.py`` replaces each color by one for a dark page, so draw only with these.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from ditscale.evaluation.metrics.table import values
from ditscale.models.blocks import DESIGNS
from ditscale.objectives import VARIANTS, colored_as
from ditscale.writing import writing

INK, MUTED, GRID, PAPER = "#1c1f24", "#636974", "#e3e6ea", "#ffffff"
PATCH_COLORS = {2: "#12355b", 4: "#c8553d", 8: "#e5a823"}
VARIANT_COLORS = {name: variant.color for name, variant in VARIANTS.items()}
BLOCK_COLORS = {name: design.color for name, design in DESIGNS.items()}
DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
MODEL_LINES = tuple(zip(DASHES * 2, ("o", "s", "^", "D", "v", "P", "X", "*")))
PATCH_MARKERS = {2: "o", 4: "s", 8: "^"}
BAND = "#9aa3af"
METRIC_NAMES = {"fid": "FID", "loss": "Validation loss", **{value.name: value.label for value in values() if value.label and not value.higher_is_better}}
# Picture formats, each with the metadata to remove: when and with what the file was made.
FORMATS = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None},
           "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
DEFAULT_FORMATS = ("png", "svg")

WIDTH, HEIGHT = 5.8, 4.5        # inches: scaled to a phone's 370 px, 10-point text is still 9 px high
RC = {
    "font.size": 10, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "figure.facecolor": PAPER, "axes.facecolor": PAPER,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "grid.color": GRID, "grid.linewidth": 0.7, "legend.frameon": False, "lines.solid_capstyle": "round",
    "svg.hashsalt": "ditscale", "svg.fonttype": "path",              # same ids and glyphs on every machine
    "pdf.fonttype": 42,                                              # TrueType: journals refuse Type 3
}


@dataclass(frozen=True)
class Drawing:
    """A figure with its plotted points, one row each, and its caption as plain text; ``card``: the numbers behind it, ready for JSON, if
    it is based on a fit or a verdict; ``tables``: the text of further files, by name."""

    name: str
    figure: Figure
    points: pd.DataFrame
    caption: str
    card: dict | None = None
    tables: Mapping[str, str] = field(default_factory=dict)


def paper():
    """The context for making and saving figures."""
    return matplotlib.rc_context(RC)


def new_axes(height: float = HEIGHT):
    """One figure with one set of axes, both logarithmic, with a light grid. Call inside ``paper()``."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log")
    axes.grid(True, which="major")
    return figure, axes


def save(drawing: Drawing, out: Path, formats: tuple[str, ...] = DEFAULT_FORMATS) -> list[Path]:
    """Writes ``name.png`` (200 dpi) and ``.svg``, or other ``FORMATS``, with ``.csv`` (points), ``.txt`` (caption) and, if
    there is a card, ``.json``; then the tables. The bytes are the same each time."""
    paths = [out / f"{drawing.name}.{kind}" for kind in (*formats, "csv", "txt", *(["json"] if drawing.card else []))]
    with paper(), writing(out):
        freeze(drawing.figure)
        for path, kind in zip(paths, formats):
            packed: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}     # 6 takes longer, for 6 % fewer bytes
            drawing.figure.savefig(path, dpi=200 if kind == "png" else "figure", metadata=FORMATS[kind], **packed)
    points, caption, *card = paths[len(formats):]
    with writing(out):
        drawing.points.to_csv(points, index=False, lineterminator="\n")
        caption.write_text(drawing.caption + "\n", encoding="utf-8")
        for name, text in drawing.tables.items():
            (out / name).write_text(text, encoding="utf-8")
    for path in card:
        write_json(path, drawing.card)
    return [*paths, *(out / name for name in drawing.tables)]


def write_json(path: Path, value) -> Path:
    """Writes the value to the file and returns its path."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with writing(path):
        path.write_text(text, encoding="utf-8")
    return path


def freeze(figure: Figure) -> None:
    """Fixes the layout, so that what is measured now holds for every output format."""
    if engine := figure.get_layout_engine():
        FigureCanvasAgg(figure)                                                # keeps its renderer, where a plain canvas makes one for each text
        engine.execute(figure)
        figure.set_layout_engine(None)                                         # with any engine, even a placeholder, each savefig draws twice


def metric_name(table: pd.DataFrame) -> str:
    """The table's metric, as written in papers."""
    metric = table["metric"].iloc[0]
    return METRIC_NAMES.get(metric, metric)


def score_label(table: pd.DataFrame) -> str:
    """The label of an axis of scores."""
    return f"{metric_name(table)} (lower is better)"


def patch_color(patch_size: int) -> str:
    return PATCH_COLORS.get(patch_size, MUTED)


def patch_marker(patch_size: int) -> str:
    return PATCH_MARKERS.get(patch_size, "D")


def variant_color(variant: str) -> str:
    """The color of a variant, by its label in tables, which may have auxiliary losses."""
    kind = colored_as(variant)
    return kind.color if kind else MUTED


def block_color(design: str) -> str:
    return BLOCK_COLORS.get(design, MUTED)


def ramp(n: int) -> list[str]:
    """Colors from light to dark for ``n`` ordered values, interpolated through the three patch colors, also ordered in grayscale."""
    ends = np.array([to_rgb(PATCH_COLORS[patch]) for patch in (8, 4, 2)])
    return [to_hex([np.interp(at, (0.0, 0.5, 1.0), channel) for channel in ends.T]) for at in np.linspace(0.0, 1.0, max(n, 2))[-n:]]


def model_lines(models: list[str]) -> dict[str, tuple[Any, str]]:
    """A line style and a marker for each model; they repeat after eight."""
    return {model: MODEL_LINES[i % len(MODEL_LINES)] for i, model in enumerate(models)}


def widths_by_size(sizes: list[str]) -> dict[str, float]:
    """Line width in points, thicker for larger models; ``sizes`` smallest first."""
    return dict(zip(sizes, np.linspace(0.9, 2.7, len(sizes)) if len(sizes) > 1 else [1.8]))


def log_limits(values, pad: float = 0.06) -> tuple[float, float]:
    """Limits of a log axis with a margin of ``pad`` of its length at each end, at least a factor of 1.3 apart."""
    low, high = np.log(np.min(values)), np.log(np.max(values))
    margin = max(pad * (high - low), (np.log(1.3) - (high - low)) / 2.0)
    return float(np.exp(low - margin)), float(np.exp(high + margin))


def log_axis(axis, values, label: str, pad: float = 0.06, ticks: Callable[..., None] | None = None) -> tuple[float, float]:
    """Makes an x or y axis logarithmic, with limits around the values and ``plain_log_ticks`` or others; returns the limits."""
    limits, name = log_limits(values, pad), axis.axis_name
    axis.axes.set(**{f"{name}label": label, f"{name}scale": "log", f"{name}lim": limits})
    (ticks or plain_log_ticks)(axis, *limits)
    return limits


def plain_log_ticks(axis, low: float, high: float) -> None:
    """Log-axis ticks at 1, 2, 5 and so on, as plain numbers, dense enough to show at least four."""
    ticks = _ticks(low, high, 4, range(-12, 25), (1, 1.5, 2, 3, 4, 5, 6, 8))
    if len(ticks) < 4:
        ticks = [tick for tick in ticker.MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)).tick_values(low, high) if low <= tick <= high]
    axis.set_major_locator(ticker.FixedLocator(ticks))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_locator(ticker.NullLocator())


def power_ticks(axis, low: float, high: float) -> None:
    """Log-axis ticks at powers of ten, and between them if there would be fewer than three; for FLOPs."""
    ticks = _ticks(low, high, 3, range(30), (1, 2, 3, 5, 7))                    # all nine would overlap
    axis.set_major_locator(ticker.FixedLocator(ticks if len(ticks) > 2 else _ticks(low, high, 3, range(30), range(1, 10))))
    axis.set_major_formatter(ticker.LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_locator(ticker.NullLocator())


def _ticks(low: float, high: float, least: int, powers: range, finest: Iterable[float]) -> list[float]:
    """Multiples of powers of ten between two limits, at the coarsest steps that give ``least`` of them, or else the finest."""
    for steps in ((1,), (1, 3), (1, 2, 5), finest):
        ticks = [tick for power in powers for step in steps if low <= (tick := step * 10.0 ** power) <= high]
        if len(ticks) >= least:
            break
    return ticks


def macs_unit(macs) -> tuple[float, str, str]:
    """A unit suited to the middle model: (multiply-adds per unit, symbol, unit in words)."""
    middle = float(np.median(macs))
    for size, symbol, words in ((1e12, "TMACs", "trillion"), (1e9, "GMACs", "billion"), (1e6, "MMACs", "million")):
        if middle >= size:
            return size, symbol, f"{words} multiply-adds"
    return 1e3, "kMACs", "thousand multiply-adds"


def macs_axis_label(symbol: str) -> str:
    if symbol == "GMACs":
        return "Forward compute (GMACs per image, DiT's \"Gflops\"; 1 MAC = 2 FLOPs)"
    return f"Forward compute of the model ({symbol} per image; 1 MAC = 2 FLOPs)"


def short_count(value: float, digits: int = 3) -> str:
    """``1234567`` -> ``1.23 M``."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return _digits(value / size, digits) + letter
    return _digits(value, digits)


def _digits(value: float, digits: int) -> str:
    """``331.4`` -> ``331`` at three digits, ``330`` at two."""
    return f"{float(f'{value:.{digits}g}'):g}"


def score_text(score: float) -> str:
    """Three digits, trailing zeros kept: 11.0, 6.59."""
    return f"{score:#.3g}".rstrip(".")


def power_of_ten(value: float) -> str:
    """``1.0173e14`` -> ``1.02 × 10¹⁴``; "unknown" if it is not a number, as the cost of a row of a plain CSV may be."""
    if not math.isfinite(value):
        return "unknown"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent(fraction: float) -> str:
    """``0.1874`` -> ``18.7 %``."""
    return f"{100 * fraction:.1f} %"


def signed(value: float, digits: int = 3) -> str:
    """A number with a real minus sign, for text."""
    return f"{value:.{digits}f}".replace("-", "−")
