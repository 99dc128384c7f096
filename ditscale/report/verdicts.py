"""The verdicts at the top of the report page: savings of each variant, the frontier, seed noise.

All from ``ditscale.studies.table.study.Study``. If the data do not support an answer, the reason is shown instead.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ditscale.errors import UserError
from ditscale.figures.kit import study_table
from ditscale.figures.kit.variant_table import BASELINE, variants_in_order
from ditscale.figures.plots.frontier import no_run_left
from ditscale.scaling.differences import INCONCLUSIVE, MIN_SEEDS
from ditscale.scaling.multiplier import NOT_REACHED, Multiplier
from ditscale.studies.table.comparable import trunks
from ditscale.studies.table.study import COSTS, Study

CURRENCIES = ("train_flops", "accelerator_hours")
NEEDED = ("recipe", *CURRENCIES)
SHORT = {"train_flops": "training FLOPs", "accelerator_hours": "accelerator-hours"}


@dataclass(frozen=True)
class Verdicts:
    """``rows`` are (name, [(verdict's word or "", sentence)]); ``cards`` has the numbers behind them, by name, ready for JSON."""

    rows: list[tuple[str, list[tuple[str, str]]]]
    cards: dict[str, dict]


def read(table: pd.DataFrame, path: Path = Path(".")) -> Verdicts:
    """The verdicts for a table of the ledger.

    Args:
        path: the study's directory; if recipes differ, its runs show in which settings.
    """
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    cards: dict[str, dict] = {}
    try:
        study_table.require_columns(table, NEEDED)
    except UserError as error:
        return Verdicts([("Multipliers, frontier and seed noise", [(INCONCLUSIVE, f"Not computed: {error}.")])], cards)
    study = Study(path, table)
    for variant in variants_in_order(table):
        if variant != BASELINE:
            found = {cost: _tried(lambda: study.multiplier(variant, cost=cost)) for cost in CURRENCIES}
            left_out = next((f" {one.left_out}." for one in found.values() if isinstance(one, Multiplier) and one.left_out), "")
            rows.append((f"{variant} over {BASELINE}", [(word, text + left_out) for word, text in _multipliers(found)]))
            cards |= {f"Multiplier of {variant} over {BASELINE} in {COSTS[cost]}": one.card() for cost, one in found.items()
                      if isinstance(one, Multiplier)}
    frontier, noise = _tried(study.frontier), _tried(study.noise)
    rows.append(("Frontier", _frontier(frontier, table)))
    rows.append(("Seed noise", [_sentence(noise)]))
    cards |= {name: found.card() for name, found in (("Frontier in training FLOPs", frontier), ("Seed noise", noise))
              if not isinstance(found, str)}
    return Verdicts(rows, cards)


def _tried(make: Callable):
    """The result, or why there is none, in words."""
    try:
        return make()
    except UserError as error:
        return str(error)


def _multipliers(found: dict[str, Multiplier | str]) -> list[tuple[str, str]]:
    """A sentence for each verdict with its reason, one for all costs if they agree; then outliers, and the verdicts without them."""
    sentences = _sentences(found)
    far = next((one for one in found.values() if isinstance(one, Multiplier) and one.without), None)
    if far:
        sentences.append(("", f"{far.outliers.sentence}."))
        without = {cost: one.without for cost, one in found.items() if isinstance(one, Multiplier) and one.without}
        sentences += [(word, f"Without {far.outliers.them}: {sentence}") for word, sentence in _sentences(without)]
    return sentences


def _sentences(found: Mapping[str, Multiplier | str]) -> list[tuple[str, str]]:
    parts: dict[tuple[str, str], list[str]] = {}
    for cost, one in found.items():
        if isinstance(one, str):
            parts.setdefault((INCONCLUSIVE, one), []).append("")
        elif not one.status.ok:
            parts.setdefault((NOT_REACHED if one.behind else INCONCLUSIVE, one.why), []).append("")
        elif one.in_parts:
            reason = f"for the same {one.score_unit} it is {one.parts_sentence}; elsewhere INCONCLUSIVE, {one.overall.reason}"
            parts.setdefault((one.overall.verdict, reason), []).append("")
        else:
            seeds = f"{one.overall.seeds[0]} and {one.overall.seeds[1]} seeds"
            reason = one.overall.reason if min(one.overall.seeds) < MIN_SEEDS else f"{seeds}, {one.overall.reason}"
            parts.setdefault((one.overall.verdict, reason), []).append(_cost(cost, one))
    metric = next((one.score_unit for one in found.values() if isinstance(one, Multiplier)), "score")
    sentences = []
    for (verdict, reason), costs in parts.items():
        taken = " and ".join(filter(None, costs))
        sentences.append((verdict, f"for the same {metric} it takes {taken}: {reason}." if taken else f"{reason}."))
    return sentences


def _cost(cost: str, found: Multiplier) -> str:
    """``0.71 times the training FLOPs (multiplier 1.41, 95 % interval 1.2 to 1.6)``."""
    value, bounds = found.overall.value, found.overall.interval
    between = f", 95 % interval {bounds.low:.3g} to {bounds.high:.3g}" if bounds else ""
    flat = "; the curve is flat at a target, where noise dominates" if any(at.flat for at in found.targets) else ""
    return f"{1 / value:.2g} times the {SHORT[cost]} (multiplier {value:.3g}{between}{flat})"


def _frontier(found, table: pd.DataFrame) -> list[tuple[str, str]]:
    """How many cells are on the frontier, by variant, and how certain that is. The noise has its own row."""
    word, text = _sentence(found)
    if isinstance(found, str) or not found.status.ok:
        return [(word, text)]
    sure = found.sure if found.noise.status.ok else ""
    variant_of = table.assign(trunk=trunks(table)).drop_duplicates("trunk").set_index("trunk")["variant"]
    counts = Counter(variant_of[cell.runs[0]] for cell in found.points)
    of_variants = ", ".join(f"{variant} {counts[variant]}" for variant in variants_in_order(table) if counts[variant])
    named = f" By variant: {of_variants}." if table["variant"].nunique() > 1 else ""
    counted = (f"{len(found.points)} of {len(found.cells)} combinations of model, variant and images are not beaten by any other in both "
               f"{found.score_unit} and {found.cost_unit}")
    without = found.without
    other = (f" Without {', '.join(found.noise.outliers.runs)}, named below{found.lost}: {len(without.points)} of {len(without.cells)}"
             f"{f', {without.sure}' if without.noise.status.ok else ''}.{no_run_left(table, found)}") if without else ""
    return [("" if sure else INCONCLUSIVE, f"{counted}{f', {sure}' if sure else ''}.{named}{other}")]


def _sentence(found) -> tuple[str, str]:
    if isinstance(found, str):
        return INCONCLUSIVE, f"{found}."
    return ("" if found.status.ok else INCONCLUSIVE), f"{found.sentence.removeprefix('seed noise ')}."
