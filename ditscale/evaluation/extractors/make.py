"""From the name of a feature network to the network."""

from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.extractors import Extractor
from ditscale.evaluation.metrics.names import EXTRACTORS


def make_extractor(name: str, weights_path=None, device="cpu") -> Extractor:
    """One of ``EXTRACTORS`` with weights from ``weights_path``, or ``package.module:name`` for a network of the user's own.

    Raises:
        UserError: there is no such network, or its weights are missing or others.
    """
    if name == "inception":
        from ditscale.evaluation.extractors.inception import make_inception

        return make_inception(weights_path, device)
    if name == "dinov2":
        from ditscale.evaluation.extractors.dinov2 import make_dinov2

        return make_dinov2(weights_path, device)
    if name == "resnet20_cifar10":
        from ditscale.evaluation.extractors.resnet20_cifar10 import make_resnet20

        return make_resnet20(weights_path, device)
    if name == "digits_cnn":
        from ditscale.evaluation.extractors.digits_cnn import make_digits_cnn

        return make_digits_cnn(weights_path, device)
    if name.count(":") == 1:
        from ditscale.evaluation.extractors.custom import make_custom

        return make_custom(name, weights_path, device)
    raise UserError(f"no feature network '{name}'{did_you_mean(name, EXTRACTORS) or '.'} There are {', '.join(EXTRACTORS)}, or "
                    "package.module:name for one of your own")
