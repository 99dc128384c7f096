"""The one place that makes a run's model and objective from its config: variant x formulation x size x patch x block design."""

from ditscale.config import RunConfig
from ditscale.diffusion.formulation import make_formulation
from ditscale.models.discriminative import DiscriminativeDiT
from ditscale.models.dit import DiT, create_model
from ditscale.models.masked import MaskedDiT
from ditscale.models.mdt import Mdt
from ditscale.models.sizes import parse_model_name, token_grid
from ditscale.objectives.baseline import Baseline
from ditscale.objectives.discriminative import Discriminative
from ditscale.objectives.masked import Masked
from ditscale.objectives.mdt import MaskedDiffusion
from ditscale.objectives.objective import Objective


def make_objective(config: RunConfig) -> Objective:
    """The objective that a config names, over the formulation that it names."""
    options, model = config.objective, parse_model_name(config.model.name)
    tokens = token_grid(config.data.resolution, model.patch_size) ** 2
    kind, settings = {
        "baseline": (Baseline, {}),
        "masked": (Masked, {"patch_size": model.patch_size, "tokens": tokens}),
        "mdt": (MaskedDiffusion, {"tokens": tokens, "seed": config.seed}),
        "discriminative": (Discriminative, {"tokens": tokens}),
    }[options.name]
    if options.name != "baseline":
        settings["options"] = options
    if options.name == "discriminative":
        settings["prototypes"] = options.head(model.dims).prototypes
    return kind(make_formulation(config.formulation), (config.data.channels, config.data.resolution, config.data.resolution),
                num_classes=config.data.classes, class_dropout_prob=config.model.class_dropout_prob, images=config.train.images,
                **settings)


def build_model(config: RunConfig) -> DiT:
    """The run's model with the initial weights that its seed fixes; every variant's encoder starts as the baseline's."""
    variant, added = _variant(config)
    return create_model(config.model.name, seed=config.seed, variant=variant, input_size=config.data.resolution,
                        in_channels=config.data.channels, num_classes=config.data.classes,
                        class_dropout_prob=config.model.class_dropout_prob, learn_sigma=config.formulation.learn_sigma,
                        block=config.model.block, qk_norm=config.model.qk_norm, null_class=config.model.null_class, **added)


def _variant(config: RunConfig) -> tuple[type[DiT], dict]:
    """The model's class, and what it takes beyond a DiT's options."""
    options, dims = config.objective, parse_model_name(config.model.name).dims
    if options.name == "mdt":
        return Mdt, {"decoder_depth": options.decoder_depth, "long_skips": options.long_skips}
    if options.name == "baseline" or not options.decoder(dims).depth:
        return DiT, {}
    depth, width, heads = options.decoder(dims)
    decoder = {"decoder_depth": depth, "decoder_width": width, "decoder_heads": heads}
    if options.name == "masked":
        return MaskedDiT, {**decoder, "mask_token": options.mask_ratio > 0 and options.mask_token == "learned"}
    return DiscriminativeDiT, {**decoder, "masks": options.mask_ratio > 0, "head": options.head(dims) if options.discriminates else None,
                               "discriminates": (options.cls_weight > 0, options.patch_weight > 0)}
