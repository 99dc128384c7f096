"""Places labels without overlap: each is tried at many places around its point and takes the one with the lowest cost.

Boxes are x0, y0, x1, y1 in pixels. A label far from its point is joined to it by a thin line, its lead.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from scipy.spatial import cKDTree

from ditscale.figures.kit import style

ANGLES = np.pi / 8.0 * np.array([0, 8, *range(1, 8), *range(9, 16)])
SLANTED = np.arange(len(ANGLES)) > 1                # left or right of a marker reads better than above or below it
GAPS_PT = (3.0, 7.0, 13.0, 20.0, 28.0, 38.0)        # from the marker's rim to the label
LEAD_FROM_PT = 6.0
STACK_GAP_PT = 6.0                                  # from points to their column of labels
LEAD_SAMPLES = 6
OUTSIDE = 1e5                                       # a label that is cut off is worse than one on top of any number of curves
LEAD_CLEAR_PX = 3.0                                 # a lead this close to a curve counts as on it
KEPT = 48                                           # places per label kept when neighbors are considered
STARTS, SWEEPS = 30, 5


def place(axes, points: Sequence[tuple[float, float]], texts: list[str], radii_pt: list[float],
          markers: Sequence[tuple[float, float, float]] = (), crossed: np.ndarray | None = None,
          size_pt: float = 8.5, colors: list[str] | None = None) -> None:
    """Writes each text next to its point, in ``style.INK`` or its color in ``colors``.

    Args:
        axes: limits and layout must be final.
        points: in data units; ``radii_pt``: radius of each point's marker, in points of 1/72 inch.
        markers: all further markers on the axes, (x, y, radius).
        crossed: further places that labels should avoid, ``(k, 2)`` in data units: samples along curves.
    """
    figure = axes.figure.figure                     # the whole figure, if the axes are in a subfigure
    style.freeze(figure)
    pixel = figure.dpi / 72.0
    discs = np.array([(x, y, radius) for (x, y), radius in zip(points, radii_pt)] + list(markers), dtype=float)
    discs = np.column_stack([axes.transData.transform(discs[:, :2]), discs[:, 2] * pixel])
    centers, radii = discs[:len(points), :2], discs[:len(points), 2]
    dots = np.empty((0, 2)) if crossed is None else axes.transData.transform(crossed)
    places = [_places(center, radius, _text_size(axes, text, size_pt), pixel)
              for center, radius, text in zip(centers, radii, texts)]
    alone = [_cost_alone(*options, center, discs, dots, axes) for options, center in zip(places, centers)]
    best = [np.argsort(cost, kind="stable")[:KEPT] for cost in alone]
    places = [(boxes[kept], leads[kept]) for (boxes, leads), kept in zip(places, best)]
    alone = [cost[kept] for cost, kept in zip(alone, best)]
    for text, (boxes, leads), choice, center, color in zip(texts, places, _settle(places, alone), centers, colors or [style.INK] * len(texts)):
        _lead(axes, leads[choice], pixel)
        _write(axes, text, (boxes[choice][:2] + boxes[choice][2:]) / 2.0, center, size_pt, pixel, color=color)


def stack(axes, points: list[tuple[float, float]], texts: list[str], size_pt: float = 8.5) -> None:
    """Writes texts in one column right of points at one x, in order, each as close to its point's height as the others allow.

    Args:
        axes: limits and layout must be final, and nothing may be drawn right of the points.
        points: in data units.
    """
    style.freeze(axes.figure.figure)
    pixel, places = axes.figure.figure.dpi / 72.0, axes.transData.transform(points)
    line = 1.08 * _text_size(axes, "X", size_pt)[1]
    order = np.argsort(places[:, 1], kind="stable")
    heights = _spread(places[order, 1], line)
    for i, height in zip(order, heights):
        _write(axes, texts[i], (places[i, 0] + STACK_GAP_PT * pixel, height), places[i], size_pt, pixel, align="left")


def _spread(heights: np.ndarray, least: float) -> np.ndarray:
    """The increasing heights nearest to ``heights``, by least squares, that are ``least`` apart: pooled if they would be closer."""
    steps = least * np.arange(len(heights))
    pools: list[list[float]] = []
    for value in heights - steps:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) + steps


def _settle(places: list, alone: list[np.ndarray]) -> list[int]:
    """The index of each label's place. Labels move in turn to their best place until none moves. The best of several
    starts in seeded random order is taken, as a single order often traps a label behind its neighbors."""
    n = len(places)
    together = {(i, j): _cost_together(*places[i], *places[j]) for i in range(n) for j in range(n) if i < j}
    together |= {(j, i): cost.T for (i, j), cost in together.items()}
    best, best_cost, random = [0] * n, np.inf, np.random.default_rng(0)
    for _ in range(STARTS):
        chosen: dict[int, int] = {}
        for _ in range(SWEEPS):
            for i in random.permutation(n):
                costs = alone[i] + sum(together[i, j][:, k] for j, k in chosen.items() if j != i)
                chosen[i] = int(np.argmin(costs))
        cost = sum(alone[i][k] for i, k in chosen.items())
        cost += sum(together[i, j][chosen[i], chosen[j]] for i in chosen for j in chosen if i < j)
        if cost < best_cost:
            best, best_cost = [chosen[i] for i in range(n)], cost
    return best


def _places(center, radius: float, size, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes ``(k, 4)`` around a marker, nearest first, and their leads ``(k, LEAD_SAMPLES, 2)`` from rim to box."""
    half = np.array(size) / 2.0
    boxes, leads = [], []
    for gap in GAPS_PT:
        for angle in ANGLES:
            outward = np.array([math.cos(angle), math.sin(angle)])
            anchored = np.where(abs(outward) < 0.3, 0.0, np.sign(outward))
            middle = center + outward * (radius + gap * pixel) + half * anchored
            box = np.concatenate([middle - half, middle + half])
            end = np.clip(center, box[:2], box[2:])
            start = center + (end - center) * min(1.0, radius / max(np.hypot(*(end - center)), 1e-9))
            boxes.append(box)
            leads.append(start + (end - start) * np.linspace(0.0, 1.0, LEAD_SAMPLES)[:, None])
    return np.array(boxes), np.array(leads)


def _cost_alone(boxes, leads, own, discs, dots, axes) -> np.ndarray:
    """The cost of each place regardless of other labels: outside the axes, on top of things, far from the point; ``(k,)``."""
    nearest = np.clip(discs[None, :, :2], boxes[:, None, :2], boxes[:, None, 2:])           # (k, markers, 2)
    on_markers = (_length(nearest - discs[:, :2]) < discs[:, 2]).sum(1)
    others = discs[_length(discs[:, :2] - own) > 1e-6]
    dots = _near(dots, np.vstack([boxes.reshape(-1, 2), leads.reshape(-1, 2)]), LEAD_CLEAR_PX)
    lead_on_markers = (_length(leads[:, :, None] - others[:, :2]) < others[:, 2]).any(1).sum(1)
    lead_on_curves = (_to_nearest(leads[:, 1:], dots) < LEAD_CLEAR_PX).sum(1)
    taken = np.array(_taken_boxes(axes)).reshape(-1, 4)
    frame = axes.get_window_extent().extents
    outside = (boxes[:, :2] < frame[:2]).any(1) | (boxes[:, 2:] > frame[2:]).any(1)
    slanted = np.tile(SLANTED, len(GAPS_PT))
    return (OUTSIDE * outside + 200.0 * _overlap(boxes, taken).sum(1) + 20.0 * on_markers + 10.0 * lead_on_markers
            + 2.0 * _inside(dots, boxes).sum(1) + 1.0 * lead_on_curves
            + 0.06 * _length(leads[:, -1] - leads[:, 0]) + slanted)


def _cost_together(boxes, leads, other_boxes, other_leads) -> np.ndarray:
    """The cost of each pair of places of two labels: overlap, or a lead through the other label. ``(k, l)``."""
    overlap = _overlap(boxes, other_boxes)
    through_other = _inside(leads.reshape(-1, 2), other_boxes).reshape(len(other_boxes), len(boxes), -1).any(2).T
    through_this = _inside(other_leads.reshape(-1, 2), boxes).reshape(len(boxes), len(other_boxes), -1).any(2)
    return 200.0 * overlap + 10.0 * (overlap > 0) + 25.0 * through_other + 25.0 * through_this


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of each box covered by each other box, ``(k, l)``."""
    shared = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return shared.clip(0).prod(-1) / (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]


def _near(dots: np.ndarray, places: np.ndarray, margin: float) -> np.ndarray:
    """The dots that a label in one of these places could touch: a study of 200 runs has thousands elsewhere."""
    low, high = places.min(0) - margin, places.max(0) + margin
    return dots[((dots >= low) & (dots <= high)).all(-1)]


def _to_nearest(places: np.ndarray, dots: np.ndarray) -> np.ndarray:
    """The distance of each place ``(..., 2)`` to the nearest dot; infinite without dots."""
    return cKDTree(dots).query(places)[0] if len(dots) else np.full(places.shape[:-1], np.inf)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which points ``(p, 2)`` are in which boxes ``(b, 4)``: ``(b, p)``."""
    return np.all((points[None] > boxes[:, None, :2]) & (points[None] < boxes[:, None, 2:]), axis=-1)


def _lead(axes, lead, pixel: float) -> None:
    if _length(lead[-1] - lead[0]) > LEAD_FROM_PT * pixel:
        ends = axes.transData.inverted().transform(lead[[0, -1]])
        axes.plot(*ends.T, color=style.MUTED, linewidth=0.7, zorder=5, scalex=False, scaley=False)


def _write(axes, text: str, where, center, size_pt: float, pixel: float, align: str = "center",
           color: str = style.INK) -> None:
    """Writes the text at a pixel, as an offset in points from the marker, so that it is right at any resolution."""
    axes.annotate(
        text, xy=axes.transData.inverted().transform(center), xytext=(np.asarray(where) - center) / pixel,
        textcoords="offset points", ha=align, va="center", fontsize=size_pt, color=color, zorder=6,
        path_effects=[patheffects.withStroke(linewidth=2.2, foreground=style.PAPER)],
    )


def _text_size(axes, text: str, size_pt: float) -> tuple[float, float]:
    probe = axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", fontsize=size_pt)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width + 2.0, extent.height


def _taken_boxes(axes) -> list[np.ndarray]:
    """The boxes of existing legends and texts."""
    legend = [axes.get_legend()] if axes.get_legend() else []
    return [artist.get_window_extent().extents for artist in [*axes.texts, *legend]]
