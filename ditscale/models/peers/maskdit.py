"""MaskDiT (arXiv 2306.09305): ditscale's masked model, without a learned null class, and given ln(sigma) / 4 with no factor.

Its class embedding is a linear layer on a one-hot row, so its weight (H, classes) is our table transposed; a dropped label is the
zero row, which gives the zero vector.
"""

import torch
from torch import Tensor

from ditscale.errors import UserError
from ditscale.models.masked import MaskedDiT
from ditscale.models.peers.backbone import Translated, checked, sizes

TABLE = "y_embedder.embedding_table.weight"
THEIRS, OURS = "decoder_layer.", "decoder_embed."
WRAPPER = "model."                                                             # of the preconditioned network that is saved
HEAD_WIDTH = 32                                                                # of the published decoder: 512 wide, 16 heads


def translate(state: dict[str, Tensor], heads: int, *, decoder_heads: int | None = None) -> Translated:
    """MaskDiT's state dict, bare or in its EDM wrapper, as that of ``MaskedDiT``.

    Args:
        decoder_heads: not in the weights; the default gives heads of the published 32 channels.

    Raises:
        UserError: the weights are not a MaskDiT's with its decoder.
    """
    state = {key.removeprefix(WRAPPER): value for key, value in state.items()}
    if TABLE not in state or f"{THEIRS}linear.weight" not in state:
        missing = TABLE if TABLE not in state else f"{THEIRS}linear.weight"
        raise UserError(f"these are not weights of MaskDiT: there is no '{missing}'")
    weights = {OURS + key.removeprefix(THEIRS) if key.startswith(THEIRS) else key: value for key, value in state.items()}
    table = state[TABLE]
    weights[TABLE] = torch.cat([table.T, table.new_zeros(1, len(table))])
    decoder = {"decoder_depth": len({key.split(".")[1] for key in state if key.startswith("decoder_blocks.")}),
               "decoder_width": len(state[f"{THEIRS}linear.weight"])}
    decoder["decoder_heads"] = decoder_heads or max(1, decoder["decoder_width"] // HEAD_WIDTH)
    model = {**sizes(weights, heads, "MaskDiT"), **decoder, "null_class": "zero", "mask_token": "mask_token" in state}
    config = {"formulation.name": "edm", "formulation.c_noise_scale": 1.0, "model.null_class": "zero", "objective.name": "masked"}
    config |= {f"objective.{name}": value for name, value in decoder.items()}
    if not model["mask_token"]:
        config["objective.mask_token"] = "zero"
    return Translated(checked(weights, model, "MaskDiT", MaskedDiT), model, config, MaskedDiT)
