"""Makes a run's model and objective from its config: variant x formulation x size x patch x block design."""

from fractions import Fraction
from typing import TYPE_CHECKING

from ditscale.diffusion.formulation import make_formulation
from ditscale.models.dit import DiT, create_model
from ditscale.models.parametrization import parametrize
from ditscale.models.sizes import ModelName, Size, name_of, parse_model_name
from ditscale.objectives.objective import Objective

if TYPE_CHECKING:                                                              # only for annotations: the config imports this part
    from ditscale.config import RunConfig


def make_objective(config: "RunConfig") -> Objective:
    """The objective of a config, with its formulation."""
    kind, settings = config.objective.objective(config)
    return kind(make_formulation(config.formulation), (config.data.channels, config.data.resolution, config.data.resolution),
                num_classes=config.data.classes, class_dropout_prob=config.model.class_dropout_prob, images=config.train.images,
                **settings)


def build_model(config: "RunConfig") -> DiT:
    """The run's model with initial weights from its seed; every variant's encoder starts equal to the baseline's.

    Raises:
        UserError: the parametrization's base has another decoder.
    """
    name, settings = parse_model_name(config.model.name), config.model
    model = _build(config, name, config.seed)
    if not settings.is_standard:
        base = Size(name.dims.depth, settings.base_width, settings.base_width * name.dims.num_heads // name.dims.hidden_size)
        depth_ratio = Fraction(name.dims.depth, settings.base_depth or name.dims.depth)
        parametrize(model, lambda: _build(config, parse_model_name(name_of(base, name.patch_size))), depth_ratio,
                    with_multipliers=config.train.grad_clip > 0)
    return model


def _build(config: "RunConfig", name: ModelName, seed: int | None = None) -> DiT:
    kind, added = config.objective.model(name.dims)
    return create_model(str(name), seed=seed, variant=kind, input_size=config.data.resolution,
                        in_channels=config.data.channels, num_classes=config.data.classes,
                        class_dropout_prob=config.model.class_dropout_prob, learn_sigma=config.formulation.learn_sigma,
                        block=config.model.block, null_class=config.model.null_class, **config.model.switches.given, **added)
