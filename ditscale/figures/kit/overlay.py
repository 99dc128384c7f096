"""Published results drawn next to a study's own: hollow gray stars with the model's name, used in no fit.

They enter no fit and no correlation. Without any (None), nothing is drawn or named. Unverified results are drawn only on
request, as a cross with a dagger.
"""

import json
from dataclasses import dataclass

import pandas as pd
from matplotlib.lines import Line2D

from ditscale.errors import UserError
from ditscale.figures.kit import published, study_table, style

MARKER, UNVERIFIED_MARKER, DAGGER = "*", "X", "†"
SIZE_PT = {MARKER: 9.0, UNVERIFIED_MARKER: 7.0}
MOST_NAMES = 16
OWN = ""                                                                # ``source`` of the study's own rows in a figure's CSV


@dataclass(frozen=True)
class Overlay:
    """Published rows in the ledger's columns, and a sentence on those that were left out."""

    rows: pd.DataFrame
    left_out: str = ""

    def known(self, column: str, words: str) -> "Overlay":
        """The rows with a known cost.

        Raises:
            UserError: no row has one.
        """
        rows, _ = study_table.known(self.rows, column, words)
        return self._keeping(rows, f"their {words} is not known", "published result")

    def at(self, images_seen: int) -> "Overlay":
        """The rows at this training length.

        Raises:
            UserError: there is none.
        """
        rows = self.rows[self.rows["images_seen"] == images_seen].reset_index(drop=True)
        if rows.empty:
            counts = ", ".join(f"{n:,}" for n in sorted(self.rows["images_seen"].unique()))
            raise UserError(f"no published result at {images_seen:,} images seen, where this figure compares scores; there are results at "
                            f"{counts}")
        return self._keeping(rows, "published at other training lengths")

    def of_sizes(self, sizes: list[str], patches: list[int] | None = None) -> "Overlay":
        """The rows of these sizes and, if given, patch sizes."""
        kept = self.rows["size"].isin(sizes) & (True if patches is None else self.rows["patch_size"].isin(patches))
        return self._keeping(self.rows[kept].reset_index(drop=True), "published for other sizes")

    def _keeping(self, rows: pd.DataFrame, why: str, noun: str = "result") -> "Overlay":
        others = len(self.rows) - len(rows)
        note = f" Left out, {why}: {study_table.count(others, noun)}." if others else ""
        return Overlay(rows, self.left_out + note)


def choose(table: pd.DataFrame, rows: pd.DataFrame, unverified: bool) -> Overlay:
    """The published rows that can share an axis with a study's: same metric, guidance and input.

    Raises:
        UserError: the study has another metric, or no row is left.
    """
    metrics = sorted(table["metric"].unique())
    if metrics != [published.METRIC]:
        raise UserError(f"published results are FID ({published.METRIC}: Inception's features) and the scores here are {', '.join(metrics)}: "
                        "the features and the scale differ, so they cannot share an axis")
    if published.is_published(table):                                   # the study itself is a paper's
        table, _ = published.largest_comparable(table, study_table.ONE_OF_EACH)
        result = ["model", "images_seen", "score"]
        rows = rows[~pd.MultiIndex.from_frame(rows[result]).isin(pd.MultiIndex.from_frame(table[result]))]
    searched = table["passport_fields"].map(lambda fields: bool(json.loads(fields).get("selected_on"))).astype(bool)
    scales = set(table.loc[~searched, "guidance_scale"].unique())       # a scale that was searched is no scale that a paper states
    sides = {_side(*pair) for pair in zip(table["tokens"], table["patch_size"])}
    guided_alike = rows["guidance_scale"].isin(scales)
    sized_alike = pd.Series([_side(*pair) in sides for pair in zip(rows["tokens"], rows["patch_size"])], rows.index)
    trusted = (rows["verified"] == published.VERIFIED) | unverified
    kept = rows[guided_alike & sized_alike & trusted].reset_index(drop=True)
    reasons = [(~guided_alike, "with other guidance"), (guided_alike & ~sized_alike, "with another input size"),
               (guided_alike & sized_alike & ~trusted, "not verified")]
    others = [f"{which.sum()} {why}" for which, why in reasons if which.any()]
    if kept.empty:
        guided = ", ".join(f"{scale:g}" for scale in scales) or "searched for each checkpoint"
        raise UserError(f"no published result can be compared with this study: {', '.join(others)}; here guidance is {guided} "
                        f"and the input {', '.join(f'{n} x {n}' for n in sorted(sides))}")
    return Overlay(kept, f" Left out, published results {', '.join(others)}." if others else "")


def curves(axes, overlay: Overlay | None, x: str, unit: float = 1.0, scale: float = 1.0, zorder: float = 1.5) -> None:
    """Draws one star or cross per result, ``scale`` times the usual size; a thin line joins results of one training. Below the study's own
    points unless ``zorder`` says otherwise."""
    for _, run in overlay.rows.groupby("run_id", sort=False) if overlay else ():
        run = run.sort_values("images_seen")
        axes.plot(run[x] / unit, run["score"], color=style.MUTED, linestyle=(0, (1, 2)), linewidth=0.8, zorder=zorder - 0.1)
        for marker, points in _by_marker(run):
            axes.plot(points[x] / unit, points["score"], zorder=zorder, **_look(marker, scale))


def handles(overlay: Overlay | None) -> list[Line2D]:
    """Legend entries."""
    words = {MARKER: "published", UNVERIFIED_MARKER: f"unverified {DAGGER}"}
    return [Line2D([], [], label=words[marker], **_look(marker)) for marker, points in (_by_marker(overlay.rows) if overlay else ())
            if len(points)]


def names(overlay: Overlay | None, x: str, unit: float = 1.0) -> tuple[list[tuple[float, float]], list[str], list[float]]:
    """Points, texts and radii of the names, for ``labels.place``: each model once, at its last result, and once more
    if that is not verified; empty if there are many."""
    if overlay is None:
        return [], [], []
    last = overlay.rows.sort_values("images_seen", kind="stable").groupby(["model", "verified"], sort=False).tail(1)
    if len(last) > MOST_NAMES:
        return [], [], []
    texts = [model + (DAGGER if verified != published.VERIFIED else "") for model, verified in zip(last["model"], last["verified"])]
    return list(zip(last[x] / unit, last["score"])), texts, [4.0] * len(last)


def markers(overlay: Overlay | None, x: str, unit: float = 1.0) -> list[tuple[float, float, float]]:
    """Every star and cross, for ``labels.place`` to avoid."""
    return [(at / unit, score, 4.0) for at, score in zip(overlay.rows[x], overlay.rows["score"])] if overlay else []


def shown(own: pd.DataFrame, overlay: Overlay | None) -> pd.DataFrame:
    """All rows shown on an axis."""
    return own if overlay is None else pd.concat([own, overlay.rows])


def points(own: pd.DataFrame, overlay: Overlay | None, columns: list[str]) -> pd.DataFrame:
    """The plotted points for the CSV: the study's rows, then published ones with their ``source`` and ``verified``."""
    if overlay is None:
        return own[columns]
    both = pd.concat([own[columns].assign(source=OWN, verified=""), overlay.rows[[*columns, "source", "verified"]]])
    return both.reset_index(drop=True)


def caption(overlay: Overlay | None, named: bool = True) -> str:
    """The source of the stars and their limits; "" without any. ``named``: whether ``names`` were written."""
    if overlay is None:
        return ""
    many = not named or overlay.rows["model"].nunique() > MOST_NAMES
    daggers = (overlay.rows["verified"] != published.VERIFIED).any()
    return (f" Hollow gray stars are published results ({'; '.join(dict.fromkeys(overlay.rows['source']))}), used in no fit and no correlation; "
            "their samplers, references and code are the papers' own, so small gaps to them are not meaningful."
            + (f" Crosses with {DAGGER} have no verified source: do not cite them." if daggers else "")
            + (" Their models are named in the CSV of the points." if many else "") + overlay.left_out)


def _by_marker(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    seen = rows["verified"] == published.VERIFIED
    return [(MARKER, rows[seen]), (UNVERIFIED_MARKER, rows[~seen])]


def _look(marker: str, scale: float = 1.0) -> dict:
    return {"linestyle": "", "marker": marker, "markersize": scale * SIZE_PT[marker], "markerfacecolor": style.PAPER,
            "markeredgecolor": style.MUTED, "markeredgewidth": 1.1}


def _side(tokens: int, patch_size: int) -> int:
    """Values along one side of the model's input: 32 for latents of 256-pixel images."""
    return round(tokens ** 0.5) * int(patch_size)
