"""What a run computes: the card of its model as it trains it, and the exact total over its steps."""

from bisect import bisect_right

from ditscale.config import RunConfig
from ditscale.cost.compute import Backbone, ComputeCard, make_backbone
from ditscale.cost.variants import variant_card
from ditscale.diffusion.nfe import LEARNS_SIGMA
from ditscale.models.sizes import parse_model_name
from ditscale.objectives.options import kept_tokens


def run_card(config: RunConfig) -> ComputeCard:
    """The compute card of a run's model, trained at the run's nominal mask ratio."""
    return variant_card(_backbone(config), config.objective)


def training_flops(config: RunConfig, images_seen: int) -> int:
    """FLOPs of the steps that a run has taken when it has seen so many images: each at its own mask ratio."""
    batch, steps = config.train.global_batch, images_seen // config.train.global_batch
    if config.objective.name != "masked":
        return run_card(config).train_flops_per_image * steps * batch
    backbone = _backbone(config)
    return sum(variant_card(backbone, config.objective, kept).train_flops_per_image * count * batch
               for kept, count in _steps_by_kept(config, backbone.tokens, steps))


def _steps_by_kept(config: RunConfig, tokens: int, steps: int) -> list[tuple[int, int]]:
    """(kept tokens, steps that keep so many). No schedule masks more as it goes on, so that groups are found by bisection."""
    def kept_at(step: int) -> int:
        return kept_tokens(tokens, config.objective.ratio_at(step * config.train.global_batch, config.train.images))

    groups, first = [], 0
    while first < steps:
        kept = kept_at(first)
        end = bisect_right(range(steps), kept, lo=first, key=kept_at)
        groups.append((kept, end - first))
        first = end
    return groups


def _backbone(config: RunConfig) -> Backbone:
    return make_backbone(parse_model_name(config.model.name), resolution=config.data.resolution, channels=config.data.channels,
                         classes=config.data.classes, class_dropout_prob=config.model.class_dropout_prob,
                         learn_sigma=config.formulation.name in LEARNS_SIGMA, block=config.model.block, qk_norm=config.model.qk_norm)
