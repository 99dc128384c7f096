"""The one place that makes a run's model and objective from its config: variant x formulation x size x patch x block design."""

from ditscale.config import RunConfig
from ditscale.diffusion.formulation import make_formulation
from ditscale.diffusion.nfe import LEARNS_SIGMA
from ditscale.models.dit import create_model
from ditscale.objectives.baseline import Baseline
from ditscale.objectives.objective import Objective

OBJECTIVES = {"baseline": Baseline}


def make_objective(config: RunConfig) -> Objective:
    """The objective that a config names, over the formulation that it names."""
    image_shape = (config.data.channels, config.data.resolution, config.data.resolution)
    return OBJECTIVES[config.objective.name](make_formulation(config.formulation), image_shape, num_classes=config.data.classes,
                                             class_dropout_prob=config.model.class_dropout_prob, images=config.train.images)


def build_model(config: RunConfig):
    """The run's model with the initial weights that its seed fixes."""
    return create_model(config.model.name, seed=config.seed, input_size=config.data.resolution,
                        in_channels=config.data.channels, num_classes=config.data.classes,
                        class_dropout_prob=config.model.class_dropout_prob,
                        learn_sigma=config.formulation.name in LEARNS_SIGMA, block=config.model.block,
                        qk_norm=config.model.qk_norm)
