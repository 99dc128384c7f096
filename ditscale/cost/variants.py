"""Compute and parameters of the four training variants in closed form.

Parts of the DiT itself keep their names (patchify, conditioning, attention, mlp, head); what a variant adds is one part each:
``decoder_embed``, ``decoder``, ``raw_embed``, ``projection_head``, ``side_block``, ``long_skips``. A part holds its own
modulations; those of norms outside the blocks are in ``conditioning``.

T tokens, K of them kept: encoders cost by K (plus tokens of their own), decoders by T. A pass over the patches and over the
condition is counted each time that one is made.
"""

from ditscale.models.macs import Backbone, Blocks, ComputeCard, Parts, added, plain_card, processed_besides
from ditscale.objectives.options import DecoderShape, HeadShape, kept_tokens

CLS = 1                                                                        # SD-DiT's class token


def variant_card(backbone: Backbone, objective, kept: int | None = None) -> ComputeCard:
    """The card of a model trained with ``objective``, a section of the config.

    Args:
        kept: tokens that the encoder keeps in training; by default those of the nominal mask ratio. Only for ``masked``, whose
            ratio follows a schedule.
    """
    if objective.name == "masked":
        return _masked_card(backbone, objective, kept_tokens(backbone.tokens, objective.mask_ratio) if kept is None else kept)
    return CARDS[objective.name](backbone, objective)


def _masked_card(backbone: Backbone, objective, kept: int) -> ComputeCard:
    """MaskDiT: the whole DiT encodes, an added decoder follows."""
    shape = objective.decoder(backbone.model.dims)
    if not shape.depth:
        return plain_card(backbone)
    encoder, parameters = backbone.blocks(), _encoder_decoder_parameters(backbone, shape)

    def forward(tokens: int) -> Parts:
        return added(backbone.embed_macs(), encoder.macs(tokens), _decoder_macs(backbone, shape, tokens))

    mask_token = shape.width if objective.mask_ratio and objective.mask_token == "learned" else 0
    return ComputeCard(backbone.tokens, parameters + mask_token, parameters, forward(backbone.tokens), forward(kept))


def _discriminative_card(backbone: Backbone, objective) -> ComputeCard:
    """SD-DiT: MaskDiT's layout with [CLS] and raw tokens in place of the mask token; a teacher that encodes all tokens.

    ``detach_encoder_for_generation`` is not followed: it saves a few gradients where the decoder takes over, below 0.3 %.
    """
    dims, width, tokens = backbone.model.dims, backbone.width, backbone.tokens
    shape, head, kept = objective.decoder(dims), objective.head(dims), kept_tokens(tokens, objective.mask_ratio)
    encoder = backbone.blocks()
    whole_encoder = added(backbone.embed_macs(), encoder.macs(tokens + CLS))
    trained = added(backbone.embed_macs(), encoder.macs(kept + CLS), _decoder_macs(backbone, shape, kept))
    used = _encoder_decoder_parameters(backbone, shape) + CLS * width
    parameters, teacher = used, {}
    if objective.mask_ratio:
        trained["raw_embed"] = (tokens - kept) * width * shape.width
        parameters += (width + 1) * shape.width
    if objective.discriminates:
        projected = (CLS if objective.cls_weight else 0) + (kept if objective.patch_weight else 0)
        trained["projection_head"] = projected * _head_macs(width, head)
        teacher = added(whole_encoder, {"projection_head": trained["projection_head"]})
        parameters += _head_parameters(width, head)
    return ComputeCard(tokens, parameters, used, added(whole_encoder, _decoder_macs(backbone, shape, tokens)), trained, teacher)


def _mdt_card(backbone: Backbone, objective) -> ComputeCard:
    """MDT: a pass over all tokens and a masked one, through the side block, each with its own embedding and final layer."""
    width, tokens, depth = backbone.width, backbone.tokens, objective.decoder_depth
    encoder, decoder, side = backbone.blocks(backbone.model.dims.depth - depth), backbone.blocks(depth), backbone.blocks(1)
    side_block = {"side_block": sum(side.macs(tokens).values())}

    def forward(kept: int) -> Parts:
        macs = added(backbone.embed_macs(), encoder.macs(kept), decoder.macs(tokens), backbone.final_macs(width))
        if objective.long_skips:
            besides = processed_besides(backbone.design)
            macs["long_skips"] = 2 * width**2 * (encoder.depth // 2 * (kept + besides) + depth * (tokens + besides))
        return macs

    masked = _mean([(share, forward(kept)) for kept, share in kept_shares(objective, tokens).items()])
    table = (2 * backbone.grid - 1)**2 * backbone.model.dims.num_heads         # relative positions of a block
    skips = (encoder.depth // 2 + depth) * (2 * width + 1) * width if objective.long_skips else 0
    used = (plain_card(backbone).parameters + 2 * tokens * width               # positions before encoder and decoder
            + backbone.model.dims.depth * table + skips)
    parameters = used + side.parameters + table + width                        # side block and mask token
    return ComputeCard(tokens, parameters, used, forward(tokens), added(forward(tokens), masked, side_block))


CARDS = {"baseline": lambda backbone, objective: plain_card(backbone), "mdt": _mdt_card, "discriminative": _discriminative_card}


def kept_shares(objective, tokens: int) -> dict[int, float]:
    """How often MDT keeps how many tokens: the one number of a fixed ratio, or those of a ratio drawn uniformly."""
    low, high = objective.mask_ratio, objective.mask_ratio_max
    most = kept_tokens(tokens, low)
    if high is None:
        return {most: 1.0}
    shares = {}
    for kept in range(kept_tokens(tokens, high), most + 1):                    # kept for ratios from ``first`` to ``last``
        first, last = 1 - (kept + 1) / tokens, 1 - kept / tokens if kept > 1 else 1.0
        shares[kept] = max(0.0, min(last, high) - max(first, low)) / (high - low)
    return shares


def _mean(weighted: list[tuple[float, Parts]]) -> Parts:
    """The weighted mean, part by part, in whole MACs."""
    return {name: round(sum(share * parts[name] for share, parts in weighted)) for name in weighted[0][1]}


def _decoder_blocks(backbone: Backbone, shape: DecoderShape) -> Blocks:
    return backbone.blocks(shape.depth, shape.width, shape.heads)


def _decoder_macs(backbone: Backbone, shape: DecoderShape, tokens: int) -> Parts:
    """An added decoder behind an encoder that saw ``tokens`` tokens: norm and projection to its width, blocks, final layer."""
    projected = tokens + processed_besides(backbone.design)
    return added(backbone.norm_macs(backbone.width), {"decoder_embed": projected * backbone.width * shape.width},
                 {"decoder": sum(_decoder_blocks(backbone, shape).macs(backbone.tokens).values())}, backbone.final_macs(shape.width))


def _encoder_decoder_parameters(backbone: Backbone, shape: DecoderShape) -> int:
    """A DiT with an added decoder in place of its final layer; the decoder's fixed position table is no parameter."""
    return (backbone.embed_parameters + backbone.blocks().parameters
            + backbone.norm_parameters(backbone.width) + (backbone.width + 1) * shape.width
            + _decoder_blocks(backbone, shape).parameters + backbone.final_parameters(shape.width))


def _head_macs(width: int, head: HeadShape) -> int:
    """The projection head on one token: three layers and the product with the prototypes."""
    return width * head.hidden + head.hidden**2 + head.hidden * head.bottleneck + head.bottleneck * head.prototypes


def _head_parameters(width: int, head: HeadShape) -> int:
    """Its three layers have biases; the prototypes are unit vectors and have none."""
    return _head_macs(width, head) + 2 * head.hidden + head.bottleneck
