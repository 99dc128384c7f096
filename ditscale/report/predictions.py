"""Predicted against actual scores: every recorded prediction of the study, right or wrong."""

from pathlib import Path

import pandas as pd

from ditscale.report import page
from ditscale.studies.predictions.check import PENDING, Outcome, outcomes, tally
from ditscale.studies.predictions.record import NAME, predictions

COLUMNS = ("Made", "Target", "Images", "Metric", "By", "Predicted", "95 % interval", "Actual", "Error", "Verdict", "Run", "Remark")


def section(study: Path | None, table: pd.DataFrame) -> str:
    """The section; empty if the study has no prediction."""
    records = predictions(study) if study else []
    if not records:
        return ""
    found = outcomes(records, table)
    text = (f"Made by `ditscale predict` and kept in {NAME}, each with a hash of its content. {tally(found)}. The interval is for one run of the "
            "target; predictions made after the target had run do not count.")
    return page.section("Predictions", page.paragraph(text), page.table(list(COLUMNS), [_row(outcome) for outcome in found], numbers={2, 5, 7, 8}))


def _row(outcome: Outcome) -> list:
    met = outcome.state != PENDING
    return [outcome.date[:16].replace("T", " "), f"{outcome.model} {outcome.variant}", f"{outcome.images:,}", outcome.metric, outcome.how,
            f"{outcome.predicted:.5g}", f"{outcome.low:.5g} to {outcome.high:.5g}", f"{outcome.actual:.5g}" if met else "",
            f"{outcome.error:+.1%}" if met else "", outcome.state, outcome.run_id, outcome.remark]
