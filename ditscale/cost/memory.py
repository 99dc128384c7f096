"""Memory of training in closed form, in bytes: model states under ZeRO, and the activations kept for the backward pass.

States follow DeepSpeed's estimators (those in its code; its documentation still has older ones): with P parameters on G
ranks, bf16 weights 2 P and gradients 2 P, then fp32 gradients 4 P, masters 4 P and Adam's moments 8 P; each stage partitions more.
In fp32 the first two are 4 P each, and there is no second copy of the weights except at stage 3.

Activations are what autograd keeps, in bf16 on devices with bf16 units, otherwise in fp32. Tests check them tensor by tensor.
"""

from dataclasses import dataclass
from fractions import Fraction

from ditscale.errors import UserError
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS
from ditscale.models.blocks.design import mlp_shapes
from ditscale.models.sizes import ModelName, token_grid
from ditscale.models.switches import STANDARD, Switches

GIB = 2**30
VALUE_BYTES = {"bf16": 2, "fp32": 4}                                         # of weights and activations in the forward
ADAM_BYTES = 8                                                                 # of state per parameter: two fp32 moments
HOST_BUFFER = 1.5                                                              # DeepSpeed's factor for host memory


@dataclass(frozen=True)
class MemoryCard:
    """Bytes on one accelerator, and offloaded bytes on one host.

    ``passing`` is the part of the states that exists only from backward to step: gradients, if none are accumulated.
    """

    states: int
    ema: int
    activations: int
    host: int
    passing: int = 0

    @property
    def accelerator(self) -> int:
        """The peak: at the start of the backward, with all activations and no gradients, or in the step, without activations."""
        return self.states + self.ema + max(self.activations - self.passing, 0)


def memory_card(model: ModelName, *, parameters: int, resolution: int, channels: int, micro_batch: int, stage: int, ranks: int = 1,
                ranks_per_node: int | None = None, offload: bool = False, precision: str = "bf16", block: str = DEFAULT_DESIGN,
                switches: Switches = STANDARD, checkpointing: bool = False, ema_tracks: int = 1, accumulates: bool = False,
                state_bytes: int | Fraction = ADAM_BYTES) -> MemoryCard:
    """The memory card of one rank.

    Args:
        parameters: trainable parameters, from a ``ComputeCard``.
        micro_batch: images per forward on one rank.
        ema_tracks: number of averages; each is fp32 and sharded like the optimizer.
        accumulates: gradients are kept from one micro batch to the next.
        state_bytes: of the optimizer, per parameter; a fraction where parameters have different states.
    """
    largest = largest_layer(model, block, switches)
    states, host = model_states(parameters, stage=stage, ranks=ranks, ranks_per_node=ranks_per_node, offload=offload,
                                largest_layer=largest, precision=precision, state_bytes=state_bytes)
    shards = ranks if stage else 1
    ema = ema_tracks * 4 * parameters // shards
    kept = activation_bytes(model, resolution=resolution, channels=channels, precision=precision, block=block, switches=switches,
                            checkpointing=checkpointing)
    passing = 0 if offload or accumulates else passing_bytes(parameters, stage=stage, ranks=ranks, precision=precision)
    return MemoryCard(states, 0 if offload else ema, micro_batch * kept, host + (ema * (ranks_per_node or ranks) if offload else 0),
                      passing)


def model_states(parameters: int, *, stage: int, ranks: int, ranks_per_node: int | None = None, offload: bool = False,
                 largest_layer: int = 0, precision: str = "bf16", state_bytes: int | Fraction = ADAM_BYTES) -> tuple[int, int]:
    """(bytes on one accelerator, bytes on one host) for weights, gradients and optimizer.

    Stages 2 and 3 in bf16, with and without offload to the host, equal DeepSpeed's estimators. It has none for stages 0 and 1; they are
    the same sum with less partitioned: nothing at stage 0; masters, moments and fp32 gradients at stage 1.

    Raises:
        UserError: the stage does not exist or cannot offload.
    """
    if stage not in (0, 1, 2, 3):
        raise UserError(f"no ZeRO stage {stage}; stages: 0, 1, 2, 3")
    if offload and stage < 2:
        raise UserError(f"ZeRO stage {stage} does not offload to the host; stages 2 and 3 do")
    per_node = ranks_per_node or ranks
    nodes = -(-ranks // per_node)
    a, twice = VALUE_BYTES[precision], precision == "bf16"                     # masters in addition to the weights
    shared = state_bytes + (8 if twice else 4)                                 # and an fp32 gradient; masters in addition to the weights
    if stage == 0:
        return int((shared + a * (2 if twice else 1)) * parameters), 0
    if stage == 1:
        return 2 * a * parameters + int(shared * parameters / ranks), int(4 * parameters * per_node * HOST_BUFFER)
    if stage == 2:
        if offload:
            return a * parameters, int(parameters * max(4 * ranks, state_bytes + 8) * HOST_BUFFER)
        return a * parameters + int((a + shared) * parameters / ranks), int(4 * parameters * per_node * HOST_BUFFER)
    if offload:
        return 2 * a * largest_layer, int(parameters * (a + state_bytes + 8) / nodes * HOST_BUFFER)
    return 2 * a * largest_layer + int((a + state_bytes + 8) * parameters / ranks), int(4 * largest_layer * per_node * HOST_BUFFER)


def passing_bytes(parameters: int, *, stage: int, ranks: int, precision: str = "bf16") -> int:
    """The part of ``model_states`` that exists only from backward to step: gradients, and their fp32 copy for the optimizer."""
    a = VALUE_BYTES[precision]
    if stage == 0:
        return (a + 4 * (precision == "bf16")) * parameters
    whole, shared = {1: (a, 4), 2: (0, a + 4), 3: (0, 4)}[stage]
    return whole * parameters + int(shared * parameters / ranks)


def largest_layer(model: ModelName, block: str = DEFAULT_DESIGN, switches: Switches = STANDARD) -> int:
    """Parameters of the largest single layer: a modulation, or the MLP's first matrix. ZeRO-3 gathers whole layers."""
    hidden = model.dims.hidden_size
    return max(DESIGNS[block].modulation_vectors * hidden, mlp_shapes(hidden, switches)[0][0]) * (hidden + 1)


def activation_bytes(model: ModelName, *, resolution: int, channels: int, precision: str = "bf16", block: str = DEFAULT_DESIGN,
                     switches: Switches = STANDARD, checkpointing: bool = False) -> int:
    """Bytes per image that the forward keeps for the backward.

    With ``checkpointing`` every block keeps only its input, and blocks are recomputed one at a time. Values of the first block that later
    ones mix in are kept once.
    """
    a = VALUE_BYTES[precision]
    hidden, depth, heads = model.dims.hidden_size, model.dims.depth, model.dims.num_heads
    tokens = token_grid(resolution, model.patch_size) ** 2
    design = DESIGNS[block]
    processed = tokens + design.added_tokens
    one_block = design.kept_bytes(a, hidden, heads, processed, switches)
    values = switches.value_residual * a * hidden * processed                  # mixed ones, in all blocks but the first
    blocks = depth * a * hidden * processed + one_block + values if checkpointing else depth * one_block - values
    patches = a * tokens * (model.patch_size**2 * channels + (switches.patch_bottleneck or 0))
    final = tokens * ((2 * a + 4) * hidden if design.modulated else 2 * a * hidden)
    embedders = a * (256 + 5 * hidden)
    return blocks + patches + final + embedders
