"""Stored features that an auxiliary loss reads: whether they are there, and are those that the run needs. No torch."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ditscale.data.features import FeatureFacts, FeatureFile, features_path, read_facts
from ditscale.errors import UserError
from ditscale.objectives.auxiliary.kind import Auxiliary
from ditscale.objectives.variant import backbone_of

if TYPE_CHECKING:
    from ditscale.config import RunConfig


def stored_features(loss: Auxiliary, config: "RunConfig") -> FeatureFile:
    """The features that a loss with a ``feature_file`` reads in a run.

    Raises:
        UserError: they are missing, damaged, of another file, of another width or number of tokens, or those of the flips are needed and not there.
    """
    try:
        file = FeatureFile(config.data.path, str(loss.feature_file))
    except UserError as error:
        raise UserError(f"objective.with {loss.name}: features {loss.feature_file}: {error}") from None
    _check_facts(loss, config, file.facts, file.path)
    return file


def check_note(loss: Auxiliary, config: "RunConfig") -> None:
    """Checks the JSON next to the features, if it is there. Raises UserError as ``stored_features``."""
    path = features_path(config.data.path, str(loss.feature_file))
    if path.with_suffix(".json").is_file():
        try:
            facts = read_facts(path)
        except UserError as error:
            raise UserError(f"objective.with {loss.name}: features {loss.feature_file}: {error}") from None
        _check_facts(loss, config, facts, path)


def _check_facts(loss: Auxiliary, config: "RunConfig", facts: FeatureFacts, path: Path) -> None:
    key, width = f"objective.with {loss.name}", loss.head(backbone_of(config))[-1]
    if facts.width != width:
        raise UserError(f"{key}: feature_width {width}, but {path} has features of {facts.width} numbers; set feature_width to {facts.width}")
    if facts.tokens != config.tokens and math.isqrt(facts.tokens) ** 2 != facts.tokens:
        raise UserError(f"{key}: {path} has features of {facts.tokens} tokens; the model has {config.tokens}: give as many, or a square grid of them")
    if config.data.flip and facts.flips != 2:
        raise UserError(f"{key}: data.flip {config.data.flip} needs features of the flips too, and {path} has none; make them "
                        "with `ditscale data features --flips`, or set data.flip to false")
