"""What can be done to a model's blocks to save time or memory; the numbers stay the same."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ditscale.config import ResourcesConfig
from ditscale.models.blocks import DESIGNS


def prepare_blocks(model: nn.Module, resources: ResourcesConfig) -> nn.Module:
    """Compile each block, or recompute it in the backward pass instead of keeping its activations, as ``resources`` says.

    By block: all blocks of a kind share one graph, so compiling takes as long for 28 as for one, and ZeRO-3 can still fetch
    parameters in between.
    """
    classes = tuple(design.block for design in DESIGNS.values())
    for block in model.modules():
        if isinstance(block, classes):
            if resources.compile:
                block.compile()
            if resources.checkpoint_activations:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return model
