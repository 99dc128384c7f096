"""The figure of a coordinate check: each layer's size against the width, at the start and after the last step."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ditscale.figures.kit import panels, style
from ditscale.training.coordinate_check import FAILS, GROWS, KEEPS, PASSES, UNDECIDED, Slope, mean_sizes

COLORS = {PASSES: style.MUTED, UNDECIDED: style.PATCH_COLORS[8], FAILS: style.PATCH_COLORS[4]}


def draw(rows: pd.DataFrame, found: list[Slope], title: str) -> style.Drawing:
    """Args: ``rows`` as ``coordinate_check.measure`` makes them, and their slopes."""
    sizes = mean_sizes(rows)
    steps, verdicts = sorted({int(sizes["step"].min()), int(sizes["step"].max())}), {one.layer: one.verdict for one in found}
    with style.paper():
        figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(steps), sharey=True))
        for panel, step in zip(axes, steps):
            for layer, own in sizes[(sizes["step"] == step) & (sizes["size"] > 0)].groupby("layer"):
                panel.plot(own["width"], own["size"], marker="o", markersize=4, color=COLORS[verdicts[str(layer)]],
                           linewidth=1.6 if verdicts[str(layer)] == FAILS else 1.0)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(sorted(sizes["width"].unique()), [str(width) for width in sorted(sizes["width"].unique())])
            panel.set_xlabel("Width, at the start" if step == 0 else f"Width, after {step} steps")
            panel.grid(True)
        axes[0].set_ylabel("Mean |output| of a layer" if 0 in steps else "Size of the learned change")
        panels.legend(figure, [Line2D([], [], color=color, marker="o", markersize=4, label=word) for word, color in COLORS.items()
                               if word in verdicts.values()])
    caption = (f"{title}. A line is a layer, the blocks of one stack together, a mean over seeds. Where learning rates transfer over widths, lines are "
               f"flat: a layer passes up to a slope of {KEEPS:g} and fails from {GROWS:g}.")
    return style.Drawing("coordinate_check", figure, sizes, caption)
