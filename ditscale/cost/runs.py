"""Compute and memory of a run: the cards of its model and variant, and the exact FLOPs of its steps."""

from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction

from ditscale.config import RunConfig
from ditscale.cost.communication import Collective, Sharding, step_collectives
from ditscale.cost.memory import VALUE_BYTES, MemoryCard, memory_card
from ditscale.diffusion.nfe import forwards, sampling_of
from ditscale.models.macs import FLOPS_PER_MAC, ComputeCard, plain_card
from ditscale.models.sizes import parse_model_name
from ditscale.objectives.variant import backbone_of
from ditscale.scaling.tokens import tokens_per_parameter

GUIDED = 2.0                                                                   # a scale that takes two passes, as all but 1 do


def run_card(config: RunConfig) -> ComputeCard:
    """The compute card of a run's model, trained at the run's nominal mask ratio with all auxiliary losses."""
    return config.objective.whole_card(backbone_of(config))


def plain_tokens_per_parameter(config: RunConfig, images_seen: int) -> float:
    """Tokens of the whole images seen, per parameter of a plain DiT, adaLN's included, as papers count: equal for all variants of a model."""
    card = plain_card(backbone_of(config))
    return float(tokens_per_parameter(images_seen, card.tokens, card.parameters))


def training_flops(config: RunConfig, images_seen: int) -> int:
    """FLOPs of a run's steps up to this number of images seen, each at its own mask ratio and with the optimizer's matrix products."""
    steps = images_seen // config.train.global_batch
    return sum(card.train_flops_per_image * images for card, images in trained_cards(config, images_seen)) + steps * optimizer_flops(config)


def inherited_flops(config: RunConfig) -> int:
    """FLOPs of the training that a branch takes from its trunk, up to its branch point; 0 for other runs."""
    return training_flops(config, config.parent.images) if config.parent else 0


def optimizer_flops(config: RunConfig) -> int:
    """FLOPs of the optimizer's matrix products per step, over all ranks: Muon's Newton-Schulz steps; 0 for elementwise optimizers."""
    return FLOPS_PER_MAC * config.train.optimizer.step_macs(config.objective.matrices(backbone_of(config)))


def optimizer_state_bytes(config: RunConfig) -> int | Fraction:
    """Bytes of the optimizer's state per parameter."""
    return config.train.optimizer.state_bytes(run_card(config).parameters, config.objective.matrices(backbone_of(config)))


def run_collectives(config: RunConfig, sharding: Sharding, micro_steps: int, *, in_fp32: bool) -> list[Collective]:
    """The collectives of one rank in a step of the run; ``in_fp32``: of a CPU, where Muon's products and what they need are in fp32."""
    train, ranks = config.train, config.resources.accelerators_per_run
    exchanged = train.optimizer.exchanged(config.objective.matrices(backbone_of(config)), sharding.stage, ranks)
    return step_collectives(run_card(config).parameters, sharding, precision=train.precision, micro_steps=micro_steps,
                            blocks=parse_model_name(config.model.name).dims.depth, teacher=config.objective.has_teacher, ranks=ranks,
                            exchanged=exchanged * (4 if in_fp32 else VALUE_BYTES[train.precision]))


def trained_cards(config: RunConfig, images_seen: int) -> list[tuple[ComputeCard, int]]:
    """(compute card, images trained with it) of the complete steps up to ``images_seen``: one, or one per mask ratio of a schedule and per set of
    auxiliary losses."""
    batch, steps = config.train.global_batch, images_seen // config.train.global_batch
    backbone, objective, first = backbone_of(config), config.objective, 0
    groups: list[tuple[int | None, int]] = [(None, steps)]
    if objective.kept_at(backbone.tokens, 0, config.train.images) is not None:
        groups = _steps_by_kept(config, backbone.tokens, steps)
    changes, found = [-(-at // batch) for at in objective.changes_at()], []    # the first steps without a loss
    for kept, count in groups:
        starts = [first, *(at for at in changes if first < at < first + count), first + count]
        found += [(objective.whole_card(backbone, kept, start * batch), (end - start) * batch) for start, end in zip(starts, starts[1:])]
        first += count
    return found


def sampling_flops(config: RunConfig) -> int:
    """FLOPs of the model per sampled image according to the run's section ``evaluation``, including guidance, without decoder and features.

    Where the guidance is searched, those of an image with guidance; another model that guides counts as this one, of which it is a smaller one as a rule.
    """
    settings = config.evaluation
    scale = GUIDED if settings.guidance else settings.guidance_scale
    return run_card(config).flops * forwards(config.formulation, sampling_of(settings), scale, settings.guidance_interval)


def evaluation_flops(config: RunConfig) -> int:
    """FLOPs of the model for the images of one evaluation; the most that a search for the guidance may take is included."""
    return sampling_flops(config) * config.evaluation.most_images


def validation_flops(config: RunConfig) -> int:
    """FLOPs of the model per draw of the validation loss; the second pass of a masking variant counts as a pass over all tokens."""
    return run_card(config).flops * (1 + (config.objective.left_out > 0))


def run_memory_card(config: RunConfig, *, stage: int, offload: bool, micro_batch: int) -> MemoryCard:
    """The memory card of one rank, for the run's most demanding step.

    A variant's activations are those of the plain DiT times the ratio of MACs with a backward pass, which is approximate. A teacher's
    forward weights are included in the states.
    """
    backbone, resources, objective = backbone_of(config), config.resources, config.objective
    kept = objective.kept_at(backbone.tokens, config.train.images - 1, config.train.images)  # no step keeps more tokens than the last
    card, plain = objective.whole_card(backbone, kept), plain_card(backbone)
    averages = 1 + len(config.train.ema_decays) + len(config.train.ema_lengths)
    teacher = objective.has_teacher
    memory = memory_card(
        backbone.model, parameters=card.parameters, resolution=config.data.resolution, channels=config.data.channels,
        micro_batch=micro_batch, stage=stage, ranks=resources.accelerators_per_run, offload=offload,
        precision=config.train.precision, block=config.model.block, switches=config.model.switches, checkpointing=resources.checkpoint_activations,
        ema_tracks=averages + teacher, accumulates=micro_batch * resources.accelerators_per_run < config.train.global_batch,
        state_bytes=optimizer_state_bytes(config))
    ratio = sum(card.trained_macs_by_part.values()) / sum(plain.trained_macs_by_part.values())
    return replace(memory, activations=round(memory.activations * ratio),
                   states=memory.states + teacher * VALUE_BYTES[config.train.precision] * card.parameters)


def _steps_by_kept(config: RunConfig, tokens: int, steps: int) -> list[tuple[int, int]]:
    """(kept tokens, number of steps). Masking never increases along a schedule, so groups are found by bisection."""
    def kept_at(step: int) -> int:
        return config.objective.kept_at(tokens, step * config.train.global_batch, config.train.images)

    groups, first = [], 0
    while first < steps:
        kept = kept_at(first)
        end = bisect_right(range(steps), kept, lo=first, key=kept_at)
        groups.append((kept, end - first))
        first = end
    return groups
