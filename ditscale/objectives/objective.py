"""What every objective offers, and the one place that makes one by name."""

from typing import NamedTuple, Protocol

from torch import Tensor

from ditscale.config import RunConfig
from ditscale.randomness import Normal, Uniform


class CleanBatch(NamedTuple):
    """Images (B, C, S, S) in fp32, scaled to [-1, 1] or latent units; labels (B,)."""

    images: Tensor
    labels: Tensor


class Objective(Protocol):
    """A variant's loss."""

    streams: dict[str, Normal | Uniform]                                       # the randomness it needs for each sample

    def __call__(self, model, batch: CleanBatch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named scalar terms in fp32; the training loss is their sum. ``model`` is called as ``model(x, t, y)``."""


def named_means(name: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Elementwise terms to scalars: ``name`` where there is one, ``name_<term>`` where there are more."""
    return {name if len(terms) == 1 else f"{name}_{term}": values.mean() for term, values in terms.items()}


def make_objective(config: RunConfig) -> Objective:
    """The objective that a config names, over the formulation that it names."""
    from ditscale.diffusion.formulation import make_formulation
    from ditscale.objectives.baseline import Baseline

    image_shape = (config.data.channels, config.data.resolution, config.data.resolution)
    return {"baseline": Baseline}[config.objective.name](make_formulation(config.formulation), image_shape,
                                                         num_classes=config.data.classes,
                                                         class_dropout_prob=config.model.class_dropout_prob)
