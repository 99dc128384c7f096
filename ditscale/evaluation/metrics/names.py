"""Names of metrics and feature networks, without torch."""

from ditscale.errors import UserError, did_you_mean

# Each is a module of ``evaluation.extractors``, with the function that makes the network from weights and a device.
EXTRACTORS = {"inception": "make_inception", "dinov2": "make_dinov2", "resnet20_cifar10": "make_resnet20", "digits_cnn": "make_digits_cnn"}


def metric_name(extractor: str) -> str:
    """The name of the Frechet distance in the features of an extractor. Only Inception's is FID."""
    return "fid" if extractor == "inception" else f"fd_{extractor}"


def extractor_name(metric: str) -> str:
    """The extractor of a metric: one of ``EXTRACTORS``, or ``package.module:name`` for a user's own network.

    Raises:
        UserError: the metric is unknown.
    """
    if metric == "fid":
        return "inception"
    extractor = metric.removeprefix("fd_")
    if metric.startswith("fd_") and extractor != "inception" and (extractor in EXTRACTORS or extractor.count(":") == 1):
        return extractor
    known = [metric_name(name) for name in EXTRACTORS]
    raise UserError(f"evaluation.metric is '{metric}'{did_you_mean(metric, known) or '.'} Metrics: {', '.join(known)}, or "
                    "fd_<package.module:name> for your own feature network")
