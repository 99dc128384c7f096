"""The further metrics of an evaluation (``evaluation.also``), in the order of computation. To add one, add a line here.

This module does not import torch: a metric's code is imported when it is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ditscale.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ditscale.evaluation.metrics.moments import Moments

FEATURES, PROBABILITIES, REAL_IMAGES, SPATIAL = "features", "probabilities", "real images", "spatial statistics"
OF_EACH_IMAGE = {FEATURES, PROBABILITIES, REAL_IMAGES}                         # needs for which all images' features are written to disk


@dataclass(frozen=True)
class Value:
    """A number that a metric writes into an evaluation's ``values``, and its row in the figure of metrics.

    ``detail``: an uncertainty or a quality of fit, only in the file.
    """

    name: str
    label: str = ""
    higher_is_better: bool = False
    log_axis: bool = False
    row: int = 99                                                              # in the figure, from the top
    detail: bool = False


@dataclass(frozen=True)
class Measured:
    """The inputs of metrics; those that no metric needs are None. Arrays may be memory maps.

    Attributes:
        features, real_features: pooled, of the images (N, D) and of the reference (M, D).
        logits: of the images, (N, classes).
        reference: ``Moments`` of the reference's features.
        spatial, reference_spatial: ``Moments`` of spatial features.
        device: where torch computes.
    """

    features: "np.ndarray | None"
    logits: "np.ndarray | None"
    real_features: "np.ndarray | None"
    reference: "Moments"
    spatial: "Moments | None"
    reference_spatial: "Moments | None"
    device: "torch.device"


@dataclass(frozen=True)
class Metric:
    """A metric with its name in ``evaluation.also``. ``measure`` returns one number for each of ``values``; if it has none,
    its only number is the standard error of the score."""

    name: str
    needs: frozenset[str]
    measure: Callable[[Measured], tuple[float, ...]]
    values: tuple[Value, ...] = ()

    def is_in(self, line: dict) -> bool:
        """Whether a line of evals.jsonl has it."""
        return self.values[0].name in line.get("values", {}) if self.values else line.get("error") is not None


def _inception_score(found: Measured) -> tuple[float, ...]:
    from ditscale.evaluation.metrics.inception_score import inception_score

    return inception_score(found.logits)


def _kid(found: Measured) -> tuple[float, ...]:
    from ditscale.evaluation.metrics.kid import kid

    return kid(found.features, found.real_features)


def _precision_recall(found: Measured) -> tuple[float, ...]:
    from ditscale.evaluation.metrics.precision_recall import precision_recall

    return precision_recall(found.features, found.real_features, device=found.device)


def _infinity(found: Measured) -> tuple[float, ...]:
    from ditscale.evaluation.metrics.infinity import frechet_infinity

    fit = frechet_infinity(found.features, found.reference)
    return fit.value, fit.r2


def _spatial_distance(found: Measured) -> tuple[float, ...]:
    from ditscale.evaluation.metrics.frechet import frechet_distance

    return (frechet_distance(found.spatial, found.reference_spatial),)


def _bootstrap(found: Measured) -> tuple[float, ...]:
    from ditscale.evaluation.metrics.bootstrap import bootstrap_error

    return (bootstrap_error(found.features, found.reference),)


METRICS: list[Metric] = [
    Metric("is", frozenset({PROBABILITIES}), _inception_score,
           (Value("is", "Inception Score", higher_is_better=True, row=3), Value("is_std", detail=True))),
    Metric("kid", frozenset({FEATURES, REAL_IMAGES}), _kid,
           (Value("kid", "KID", log_axis=True, row=2), Value("kid_std", detail=True))),
    Metric("precision_recall", frozenset({FEATURES, REAL_IMAGES}), _precision_recall,
           (Value("precision", "Precision", higher_is_better=True, row=4), Value("recall", "Recall", higher_is_better=True, row=5))),
    Metric("fd_infinity", frozenset({FEATURES}), _infinity,
           (Value("fd_infinity", "FD∞", log_axis=True, row=1), Value("fd_infinity_r2", detail=True))),
    Metric("sfid", frozenset({SPATIAL}), _spatial_distance, (Value("sfid", "sFID", log_axis=True, row=0),)),
    Metric("bootstrap", frozenset({FEATURES}), _bootstrap),
]

LOSS, BUCKETS = "loss", 10                                                     # the validation loss, and its tenths of the noise levels
SPREAD = "loss_sd_of_draws"
IN_BUCKETS = tuple(f"loss_bucket_{index}" for index in range(BUCKETS))
OF_LOSS = (Value("loss_raw", "Validation loss, raw weights", row=6), Value("loss_masked", "Validation loss, masked", row=7),
           Value(SPREAD, detail=True), *(Value(name, detail=True) for name in IN_BUCKETS))


def chosen(names) -> list[Metric]:
    """The metrics of these names, in the table's order."""
    return [metric for metric in METRICS if metric.name in names]


def needing(need: str, metrics: list[Metric] | None = None) -> list[str]:
    """Names of the metrics that need it; default: of all in the table."""
    return [metric.name for metric in (METRICS if metrics is None else metrics) if need in metric.needs]


def has_all(line: dict, also: tuple[str, ...]) -> bool:
    """Whether a line of evals.jsonl has these metrics of ``evaluation.also``."""
    return all(metric.is_in(line) for metric in chosen(also))


def values() -> list[Value]:
    """The values of all metrics and of the validation loss, in the order of the figure's rows."""
    return sorted((*(value for metric in METRICS for value in metric.values), *OF_LOSS), key=lambda value: value.row)


def details() -> set[str]:
    """Names of the values that are only in the file."""
    return {value.name for value in values() if value.detail}


def known(name: str) -> str:
    """Returns the name if a metric has it.

    Raises:
        UserError: no metric has it.
    """
    names = [metric.name for metric in METRICS]
    if name not in names:
        raise UserError(f"evaluation.also has '{name}'{did_you_mean(name, names) or '.'} Metrics: {', '.join(names)}")
    return name
