"""Makes a run's model and objective from its config: variant x formulation x size x patch x block design."""

from fractions import Fraction
from typing import TYPE_CHECKING

from ditscale.data.features import with_features
from ditscale.diffusion.formulation import make_formulation
from ditscale.models.dit import DiT, create_model
from ditscale.models.parametrization import parametrize
from ditscale.models.sizes import ModelName, Size, name_of, parse_model_name
from ditscale.models.taps import tapping
from ditscale.objectives.auxiliary.loss import Made, with_losses
from ditscale.objectives.auxiliary.stored import stored_features
from ditscale.objectives.objective import Objective
from ditscale.objectives.variant import backbone_of

if TYPE_CHECKING:                                                              # only for annotations: the config imports this part
    from ditscale.config import RunConfig
    from ditscale.data.loader import StreamLoader


def make_objective(config: "RunConfig") -> Objective:
    """The objective of a config, with its formulation."""
    kind, settings = config.objective.objective(config)
    if losses := config.objective.auxiliary:
        dims = parse_model_name(config.model.name).dims
        kind, settings = with_losses(kind), {**settings, "auxiliary": [Made(one, one.make(config), one.tap(dims) is not None) for one in losses]}
    return kind(make_formulation(config.formulation), (config.data.channels, config.data.resolution, config.data.resolution),
                num_classes=config.data.classes, class_dropout_prob=config.model.class_dropout_prob, images=config.train.images,
                **settings)


def feature_batches(loader: "StreamLoader", config: "RunConfig"):
    """The loader's batches, with the stored features of their images if the objective reads some.

    Raises:
        UserError: as ``stored_features``.
    """
    reading = [one for one in config.objective.auxiliary if one.feature_file]
    return with_features(loader, stored_features(reading[0], config), config.seed, bool(config.data.flip)) if reading else loader


def build_model(config: "RunConfig") -> DiT:
    """The run's model for training, with initial weights from its seed; every variant's encoder starts equal to the baseline's.

    Raises:
        UserError: the parametrization's base has another decoder.
    """
    return _parametrized(config, with_heads=True)


def inference_model(config: "RunConfig") -> DiT:
    """The run's model as sampling and exports use it: without the heads of auxiliary losses."""
    return _parametrized(config, with_heads=False)


def _parametrized(config: "RunConfig", with_heads: bool) -> DiT:
    name, settings = parse_model_name(config.model.name), config.model
    model = _build(config, name, with_heads, config.seed)
    if not settings.is_standard:
        base = Size(name.dims.depth, settings.base_width, settings.base_width * name.dims.num_heads // name.dims.hidden_size)
        depth_ratio = Fraction(name.dims.depth, settings.base_depth or name.dims.depth)
        parametrize(model, lambda: _build(config, parse_model_name(name_of(base, name.patch_size)), with_heads), depth_ratio,
                    with_multipliers=config.train.grad_clip > 0)
    return model


def _build(config: "RunConfig", name: ModelName, with_heads: bool, seed: int | None = None) -> DiT:
    kind, added = config.objective.model(name.dims)
    if with_heads and config.objective.auxiliary:
        kind, added = tapping(kind), {**added, "taps": config.objective.taps(backbone_of(config, name))}
    return create_model(str(name), seed=seed, variant=kind, input_size=config.data.resolution,
                        in_channels=config.data.channels, num_classes=config.data.classes,
                        class_dropout_prob=config.model.class_dropout_prob, learn_sigma=config.formulation.learn_sigma,
                        block=config.model.block, null_class=config.model.null_class, **config.model.switches.given, **added)
