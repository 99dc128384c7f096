"""Makes a feature network by name."""

import importlib

from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.extractors import Extractor
from ditscale.evaluation.metrics.names import EXTRACTORS


def make_extractor(name: str, weights_path=None, device="cpu") -> Extractor:
    """One of ``EXTRACTORS`` with weights from ``weights_path``, or ``package.module:name`` for a user's own network.

    Raises:
        UserError: the network is unknown, or its weights are missing or others.
    """
    if name in EXTRACTORS:
        module = importlib.import_module(f"ditscale.evaluation.extractors.{name}")
        return getattr(module, EXTRACTORS[name])(weights_path, device)
    if name.count(":") == 1:
        from ditscale.evaluation.extractors.custom import make_custom

        return make_custom(name, weights_path, device)
    raise UserError(f"no feature network '{name}'{did_you_mean(name, EXTRACTORS) or '.'} There are {', '.join(EXTRACTORS)}, or "
                    "package.module:name for your own")
