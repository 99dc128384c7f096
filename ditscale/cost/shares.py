"""A run's compute by part: encoder, decoder, heads, teacher, and sampling for its evaluations. The parts add up exactly.

=========== ==========================================================================================================
encoder     the DiT's blocks, patches in, conditioning (with the norms outside the blocks), its share of long skips
decoder     an added decoder and the projections into it; MDT's side block and the model's last blocks after it
heads       the final layer, the projection head, auxiliary losses
teacher     the forward passes without a backward pass, an encoder's too
optimizer   its matrix products, Muon's
evaluation  sampling; neither the image decoder nor the feature network is counted
=========== ==========================================================================================================
"""

from dataclasses import asdict, dataclass

from ditscale.config import RunConfig
from ditscale.cost.runs import evaluation_flops, optimizer_flops, trained_cards
from ditscale.models.macs import FLOPS_PER_MAC, FORWARDS_PER_TRAINED_STEP, ComputeCard
from ditscale.objectives.variant import backbone_of


@dataclass(frozen=True)
class CostShares:
    """FLOPs by part."""

    encoder: int
    decoder: int
    heads: int
    teacher: int
    optimizer: int
    evaluation: int

    @property
    def training(self) -> int:
        """Exactly ``cost.runs.training_flops``."""
        return self.encoder + self.decoder + self.heads + self.teacher + self.optimizer

    @property
    def total(self) -> int:
        return self.training + self.evaluation

    def fractions(self) -> dict[str, float]:
        """The share of each part; they sum to 1, or are all 0 if nothing was computed."""
        return {name: flops / self.total if self.total else 0.0 for name, flops in asdict(self).items()}


def cost_shares(config: RunConfig, images_seen: int, evaluations: int = 0) -> CostShares:
    """FLOPs by part for this number of images seen and of scored checkpoints."""
    parts = [(_trained(config, card), images) for card, images in trained_cards(config, images_seen)]
    encoder, decoder, heads = (sum(macs[i] * images for macs, images in parts) for i in range(3))
    teacher = sum(sum(card.forward_only_macs_by_part.values()) * images for card, images in trained_cards(config, images_seen))
    trained = FLOPS_PER_MAC * FORWARDS_PER_TRAINED_STEP
    sampled = evaluations * evaluation_flops(config) if evaluations else 0
    optimizer = images_seen // config.train.global_batch * optimizer_flops(config)
    return CostShares(trained * encoder, trained * decoder, trained * heads, FLOPS_PER_MAC * teacher, optimizer, sampled)


def _trained(config: RunConfig, card: ComputeCard) -> tuple[int, int, int]:
    """MACs per image of the trained forward passes: encoder, decoder, heads."""
    macs, variant = card.trained_macs_by_part, config.objective
    head_parts = (*variant.head_parts, *(one.name for one in variant.auxiliary))
    decoder, heads = (sum(macs.get(name, 0) for name in names) for names in (variant.decoder_parts, head_parts))
    own_decoder = variant.own_decoder_macs(backbone_of(config))
    return sum(macs.values()) - decoder - heads - own_decoder, decoder + own_decoder, heads
