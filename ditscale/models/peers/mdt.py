"""MDT (arXiv 2303.14389) and MDTv2: ditscale's mdt model under other names.

Version 1 numbers all blocks in one list, the last of which decode; their number is not in the weights. Version 2 has three lists
(encoder's first and second half, decoder) and keeps each skip's linear layer in the block that the skip enters. The last three rows
of their relative-position tables are never read (BEiT's, for a class token), and are left out.
"""

import re

from torch import Tensor

from ditscale.errors import UserError
from ditscale.models.mdt import Mdt
from ditscale.models.peers.backbone import Translated, check_variance, checked, sizes

TABLE, OURS = "attn.rel_pos_bias.relative_position_bias_table", "attn.relative_bias.table"
INDEX = "attn.rel_pos_bias.relative_position_index"                            # a buffer that follows from the grid
UNREAD = 3                                                                     # rows at the end of each table
LISTS = ("en_inblocks", "en_outblocks", "de_blocks")                           # version 2's, in the order of the blocks
IN_LIST = re.compile(rf"({'|'.join(LISTS)})\.(\d+)\.(.*)")


def translate(state: dict[str, Tensor], heads: int, *, decoder_depth: int = 2) -> Translated:
    """MDT's state dict of either version as that of ``Mdt``.

    Args:
        decoder_depth: of version 1, as its weights do not determine it; the published one is 2. Version 2's is counted.

    Raises:
        UserError: the weights are not an MDT's, or have another number of heads.
    """
    lengths = [len({key.split(".")[1] for key in state if key.startswith(f"{name}.")}) for name in LISTS]
    long_skips = any(lengths)
    weights = {_name(key, lengths): value for key, value in state.items() if not key.endswith(INDEX)}
    tables = [key for key in weights if key.endswith(OURS)]
    if not tables:
        raise UserError(f"these are not weights of MDT: no key ends in '{TABLE}'")
    for key in tables:
        if weights[key].ndim != 2 or weights[key].shape[1] != heads:
            raise UserError(f"these weights are not of {heads} heads: a table of MDT's relative positions, (rows, heads), is "
                            f"{tuple(weights[key].shape)}")
        weights[key] = weights[key][:-UNREAD].contiguous()
    model = sizes(weights, heads, "MDT") | {"decoder_depth": lengths[2] if long_skips else decoder_depth, "long_skips": long_skips}
    if not 0 < model["decoder_depth"] < model["depth"]:
        raise UserError(f"decoder_depth {model['decoder_depth']} of MDT's {model['depth']} blocks: give 1 to {model['depth'] - 1}")
    check_variance(model, "MDT")
    config = {"formulation.name": "ddpm", "objective.name": "mdt", "objective.decoder_depth": model["decoder_depth"],
              "objective.long_skips": long_skips} | ({"formulation.min_snr_gamma": 5.0} if long_skips else {})
    return Translated(checked(weights, model, "MDT", Mdt), model, config, Mdt)


def _name(key: str, lengths: list[int]) -> str:
    """Our name for one of their keys; ``lengths`` are those of version 2's lists."""
    key = key.replace(TABLE, OURS)
    if key.startswith("sideblocks."):
        return key.replace("sideblocks.", "side_block.", 1)
    found = IN_LIST.fullmatch(key)
    if not found:
        return key
    name, number, rest = found[1], int(found[2]), found[3]
    block = sum(lengths[:LISTS.index(name)]) + number
    if rest.startswith("skip_linear."):
        return f"skips.{block - lengths[0]}.{rest.removeprefix('skip_linear.')}"  # the encoder's first half has none
    return f"blocks.{block}.{rest}"
