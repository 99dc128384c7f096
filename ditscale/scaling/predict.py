"""Predicts a larger run's loss and score from smaller runs in two steps: the loss by a law (``forecast``), the score from the loss (``link``).

Two steps because the loss has 10 to 100 times less noise than a score of samples, and one law for all metrics. If sizes do not lie
on one line of score against loss, or there is no loss, the score is forecast by its own law, and the prediction says so.
"""

from dataclasses import dataclass

import numpy as np

from ditscale.errors import UserError
from ditscale.scaling.forecast import Forecast, Rungs, forecast
from ditscale.scaling.interval import Interval
from ditscale.scaling.link import Link, fit_link

BY_LOSS, DIRECT = "by loss", "by its own law"


@dataclass(frozen=True, eq=False)
class ScorePrediction:
    """``how`` is BY_LOSS, with ``link``, or DIRECT, with ``law`` and, if the loss was tried, the reason against it in ``why_not``."""

    value: float
    interval: Interval
    how: str
    link: Link | None = None
    law: Forecast | None = None
    why_not: str = ""

    @property
    def hold_out(self) -> float | None:
        """predicted / observed - 1 of the largest rung from the others; None if too few remain."""
        if self.how == BY_LOSS:
            return self.link.hold_out
        return self.law.last_rung.error if self.law.last_rung else None

    def card(self) -> dict:
        return {"value": self.value, "low": self.interval.low, "high": self.interval.high, "how": self.how, "why_not_by_loss": self.why_not or None,
                "link": self.link.card() if self.link else None, "law": self.law.card() if self.law else None, "hold_out": self.hold_out}


def predict_score(scores: Rungs, size: float, data: float, losses: Rungs | None = None, loss: Forecast | None = None, *,
                  score_floor: float | None = None, unit: float | None = None) -> ScorePrediction:
    """The score of a run of ``size`` after ``data``.

    Args:
        scores, losses: of the smaller runs, paired by run and data; loss: the target's loss, forecast from ``losses``.
        score_floor: pins S_inf of the line, or E of the direct law. unit: see ``forecast``.

    Raises:
        UserError: neither way gives an interval.
    """
    why_not = ""
    if losses is not None and loss is not None:
        try:
            link = fit_link(*_paired(losses, scores), score_floor=score_floor, asked=loss.interval.low)
        except UserError as error:
            why_not = str(error)
        else:
            if not link.one_line.refused:
                return ScorePrediction(float(link.score(loss.value)), link.interval(loss.value, loss.interval), BY_LOSS, link)
            why_not = link.one_line.sentence
            law = forecast(scores, size, data, pinned={"E": score_floor} if score_floor else None, unit=unit)
            return ScorePrediction(law.value, law.interval, DIRECT, link, law, why_not)
    law = forecast(scores, size, data, pinned={"E": score_floor} if score_floor else None, unit=unit)
    return ScorePrediction(law.value, law.interval, DIRECT, None, law, why_not)


def _paired(losses: Rungs, scores: Rungs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loss, score, run and size of each checkpoint with both loss and score."""
    known = {(run, float(data)): loss for run, data, loss in zip(losses.runs, losses.data, losses.score)}
    both = [i for i, key in enumerate(zip(scores.runs, map(float, scores.data))) if key in known]
    if not both:
        raise UserError("no checkpoint has both a loss and a score")
    loss = np.array([known[scores.runs[i], float(scores.data[i])] for i in both])
    return loss, scores.score[both], scores.runs[both], scores.size[both]
