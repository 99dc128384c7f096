"""The least time of a training step on a device: FLOPs and bytes of each kind of operation, against the device's peaks. Closed forms.

Each operation takes at least its FLOPs at the peak of its precision, and at least its bytes at the speed of the memory. Operations follow one
another on a device, so a step takes at least the sum of the larger ones. Bytes are counted that no fusion avoids:

=============  ====================================================================================================================
products       operands and result of each matrix product once, by shape; the backward has two for each: of its inputs and of its weights
attention      q, k, v and the result, as a fused kernel moves them, never the T x T weights; in the backward twice as many FLOPs
elementwise    a norm with its modulation, a gate with its sum, loss and noise; bias, GELU or SwiGLU, rotary positions and a sum without a gate cost nothing,
               as they are fused into a product's kernel; the first block's values, read by each later block with value residual
optimizer      gradient, master and states read; master, states and the forward's weights written; once more the gradient, for its norm;
               the FLOPs of Muon's matrix products, which ranks share from stage 1 on
averages       each average and the master read, the average written; the teacher's, and its weights in the forward's precision
teacher        its forward
loader         a batch to the device, over PCIe, and from the disk: parallel to the computation, so it counts only if it is slower
network        what DeepSpeed's ranks send, ``communication.py``, at the full speed of the links, fully overlapped: like the loader
=============  ====================================================================================================================

A variant's operations are the plain DiT's in the ratio of their MACs, as in ``memory.py``: FLOPs are exact, bytes approximate.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ditscale.config import RunConfig
from ditscale.cost.communication import Sharding
from ditscale.cost.hardware import Machine
from ditscale.cost.memory import VALUE_BYTES
from ditscale.cost.runs import optimizer_flops, optimizer_state_bytes, run_card, run_collectives, training_flops
from ditscale.models.blocks.design import CONDITION_TOKENS, mlp_shapes
from ditscale.models.macs import FLOPS_PER_MAC, FORWARDS_PER_TRAINED_STEP, FREQUENCIES, Backbone, plain_card
from ditscale.objectives.variant import backbone_of

PRODUCTS, ATTENTION, ELEMENTWISE, OPTIMIZER, AVERAGES, TEACHER = "products", "attention", "elementwise", "optimizer", "averages", "teacher"
LOADER, NETWORK = "loader", "network"
COMPUTE, MEMORY = "compute", "memory"
PCIE = 64e9                                                                    # bytes/s to a device: PCIe 5 with 16 lanes, one way


@dataclass(frozen=True)
class Operation:
    """One operation, or many of one shape; ``precision`` is that of its products: bf16, tf32 or fp32."""

    kind: str
    flops: float
    bytes: float
    precision: str

    def times(self, factor: float) -> "Operation":
        return replace(self, flops=factor * self.flops, bytes=factor * self.bytes)


@dataclass(frozen=True)
class Kind:
    """All operations of a kind in one step of one rank: FLOPs, bytes, the least seconds, and what limits the largest part."""

    name: str
    flops: float
    bytes: float
    seconds: float
    limit: str

    def times(self, factor: float, name: str = "") -> "Kind":
        return Kind(name or self.name, factor * self.flops, factor * self.bytes, factor * self.seconds, self.limit)


@dataclass(frozen=True)
class Roofline:
    """One optimizer step of one rank. ``beside`` has the kinds that run parallel to the computation: loader and network."""

    kinds: tuple[Kind, ...]
    beside: tuple[Kind, ...] = ()

    @property
    def device_seconds(self) -> float:
        """The least seconds of the device's operations, one after another."""
        return sum(kind.seconds for kind in self.kinds)

    @property
    def bound_seconds(self) -> float:
        """The least seconds of a step."""
        return max(self.device_seconds, *(kind.seconds for kind in self.beside), 0.0)

    @property
    def limit(self) -> str:
        """What determines the bound: compute, memory, loader or network."""
        slowest = max(self.beside, key=lambda kind: kind.seconds, default=None)
        if slowest and slowest.seconds > self.device_seconds:
            return slowest.name
        computing = sum(kind.seconds for kind in self.kinds if kind.limit == COMPUTE)
        return COMPUTE if computing >= self.device_seconds / 2 else MEMORY


def bound_of(operations: Sequence[Operation], machine: Machine) -> tuple[Kind, ...]:
    """Operations on a device by kind, in order of first appearance."""
    found: dict[str, list[tuple[Operation, float, float]]] = {}
    for one in operations:
        computing, moving = one.flops / machine.peak(one.precision), one.bytes / machine.memory_bandwidth
        found.setdefault(one.kind, []).append((one, computing, moving))
    return tuple(_kind(name, ones) for name, ones in found.items())


def _kind(name: str, ones: list[tuple[Operation, float, float]]) -> Kind:
    seconds = sum(max(computing, moving) for _, computing, moving in ones)
    computing = sum(computing for _, computing, moving in ones if computing >= moving)
    return Kind(name, sum(one.flops for one, _, _ in ones), sum(one.bytes for one, _, _ in ones), seconds,
                COMPUTE if computing >= seconds / 2 else MEMORY)


def model_operations(backbone: Backbone, images: int, precision: str, backward: bool = True, recomputed: bool = False) -> tuple[Operation, ...]:
    """The operations of a plain DiT on ``images`` images: a forward, and the backward.

    Args:
        recomputed: blocks are computed again in the backward (activation checkpointing).
    """
    blocks = _blocks(backbone, images, precision)
    ends = _ends(backbone, images, precision)
    forward = [one for one, _ in (*blocks, *ends)] + ([one for one, _ in blocks] if recomputed and backward else [])
    return (*forward, *(following for _, following in (*blocks, *ends))) if backward else tuple(forward)


def _blocks(backbone: Backbone, images: int, precision: str) -> list[tuple[Operation, Operation]]:
    """Each operation of all blocks in the forward, with its part of the backward."""
    blocks, a = backbone.blocks(), _bytes(precision)
    design, width, tokens = backbone.block_design, backbone.width, images * (backbone.tokens + backbone.added_tokens)
    mlp = [(tokens, columns, rows) for rows, columns in mlp_shapes(width, backbone.switches)]
    shapes = [(tokens, width, 3 * width), (tokens, width, width), *mlp]
    if design.modulation_vectors:
        shapes.append((images, width, design.modulation_vectors * width))
    per_image = tokens // images
    numbers, rows = tokens * width, [_attention(images, per_image, per_image, width, precision)]
    if design.attentions > 1:
        shapes += [(tokens, width, width)] * 2 + [(CONDITION_TOKENS * images, width, 2 * width)]
        rows.append(_attention(images, per_image, CONDITION_TOKENS, width, precision))
    rows += [_product(m, k, n, precision) for m, k, n in shapes]
    norm = (Operation(ELEMENTWISE, 0, 2 * a * numbers, precision), Operation(ELEMENTWISE, 0, 3 * a * numbers, precision))
    gate = (Operation(ELEMENTWISE, 0, 3 * a * numbers, precision),) * 2
    rows += [norm] * design.norms + [gate] * design.gates
    found = [(there.times(blocks.depth), back.times(blocks.depth)) for there, back in rows]
    if backbone.switches.value_residual:                                       # the first block's values, and the sum of their gradients
        found.append((Operation(ELEMENTWISE, 0, a * numbers * (blocks.depth - 1), precision),
                      Operation(ELEMENTWISE, 0, 2 * a * numbers * (blocks.depth - 1), precision)))
    return found


def _ends(backbone: Backbone, images: int, precision: str) -> list[tuple[Operation, Operation]]:
    """Patches in, the timestep's MLP, the final layer, and the loss in fp32 over what goes in and comes out."""
    width, tokens, a = backbone.width, images * backbone.tokens, _bytes(precision)
    widths = [backbone.patch_values, *filter(None, [backbone.switches.patch_bottleneck]), width]
    shapes = [*((tokens, k, n) for k, n in zip(widths, widths[1:])), (images, FREQUENCIES, width), (images, width, width),
              (tokens, width, backbone.outputs)]
    if backbone.block_design.modulated:
        shapes.append((images, width, 2 * width))
    values = 4 * tokens * (3 * backbone.patch_values + backbone.outputs)       # image, noise, the model's input; its output
    norm = (Operation(ELEMENTWISE, 0, 2 * a * tokens * width + values, precision),
            Operation(ELEMENTWISE, 0, 3 * a * tokens * width + 4 * tokens * backbone.outputs, precision))
    return [norm, *(_product(m, k, n, precision) for m, k, n in shapes)]


def _product(m: int, k: int, n: int, precision: str) -> tuple[Operation, Operation]:
    moved = _bytes(precision) * (m * k + k * n + m * n)
    return (Operation(PRODUCTS, FLOPS_PER_MAC * m * k * n, moved, precision),
            Operation(PRODUCTS, 2 * FLOPS_PER_MAC * m * k * n, 2 * moved, precision))


def _attention(images: int, queries: int, keys: int, width: int, precision: str) -> tuple[Operation, Operation]:
    """Two products over all heads, their weights kept on the chip. The backward moves eight tensors, not four."""
    flops, moved = 2 * FLOPS_PER_MAC * images * queries * keys * width, 2 * _bytes(precision) * images * (queries + keys) * width
    return Operation(ATTENTION, flops, moved, precision), Operation(ATTENTION, 2 * flops, 2 * moved, precision)


def update_operations(parameters: float, precision: str, *, state_bytes: float, averages: int, teacher: bool = False,
                      micro_steps: int = 1, shards: int = 1, products: float = 0) -> list[Operation]:
    """Operations on the parameters after the backward, and on their gradients between micro steps; ``products`` are the FLOPs of the
    optimizer's matrix products."""
    a, own = _bytes(precision), parameters / shards
    copies = a if a < 4 else 0                                                 # the forward's weights, apart from the masters
    found = [Operation(OPTIMIZER, 0, own * (2 * a + 8 + 2 * state_bytes + copies), precision),
             Operation(AVERAGES, 0, 12 * own * averages, precision)]
    if products:
        found.append(Operation(OPTIMIZER, products / shards, 0, precision))
    if micro_steps > 1:
        found.append(Operation(OPTIMIZER, 0, 2 * a * parameters * (micro_steps - 1), precision))
    if teacher:
        found.append(Operation(AVERAGES, 0, 12 * own + a * parameters, precision))
    return found


def roofline(config: RunConfig, machine: Machine, sharding: Sharding = Sharding(), images_seen: int = 0,
             micro_batch: int | None = None) -> Roofline:
    """The average step from ``images_seen`` to the end of an unfinished run; ``micro_batch`` replaces ``auto``.

    The memory bandwidth of ``machine`` is known.
    """
    backbone, card, resources, train = backbone_of(config), run_card(config), config.resources, config.train
    ranks, images = resources.accelerators_per_run, micro_batch or config.micro_batch
    micro_steps = train.global_batch // ranks // images
    products = optimizer_flops(config)
    plain, forward_only = plain_card(backbone).macs, sum(card.forward_only_macs_by_part.values())
    left = training_flops(config, train.images) - (training_flops(config, images_seen) if images_seen else 0)
    per_image = (left / (train.images - images_seen) - products / train.global_batch) / FLOPS_PER_MAC
    trained = (per_image - forward_only) / FORWARDS_PER_TRAINED_STEP / plain   # in units of a plain forward
    model = _model_kinds(backbone, images, train.precision, True, resources.checkpoint_activations, machine)
    kinds = [kind.times(trained * micro_steps) for kind in model]
    kinds += bound_of(update_operations(card.parameters, train.precision, state_bytes=float(optimizer_state_bytes(config)),
                                        averages=1 + len(train.ema_decays) + len(train.ema_lengths), teacher=config.objective.has_teacher,
                                        micro_steps=micro_steps, shards=ranks if sharding.stage else 1, products=products), machine)
    if forward_only:
        teacher = _sum(TEACHER, _model_kinds(backbone, images, train.precision, False, False, machine))
        kinds.append(teacher.times(forward_only / plain * micro_steps))
    sent = run_collectives(config, sharding, micro_steps, in_fp32=machine.kind == "cpu")
    return Roofline(tuple(kinds), (_loader(config, train.global_batch // ranks), _network(sent, ranks, machine)))


@functools.lru_cache(maxsize=1024)                                             # a plan needs each shape thousands of times
def _model_kinds(backbone: Backbone, images: int, precision: str, backward: bool, recomputed: bool, machine: Machine) -> tuple[Kind, ...]:
    return bound_of(model_operations(backbone, images, precision, backward, recomputed), machine)


def _sum(name: str, kinds: tuple[Kind, ...]) -> Kind:
    return Kind(name, sum(kind.flops for kind in kinds), sum(kind.bytes for kind in kinds), sum(kind.seconds for kind in kinds),
                max(kinds, key=lambda kind: kind.seconds).limit)


def _loader(config: RunConfig, images: int) -> Kind:
    """A rank's images as they are stored: pixels in uint8; latents as a mean and a std in 16 bits."""
    values = config.data.channels * config.data.resolution**2
    is_latents = bool(config.data.latent_scale or config.evaluation and config.evaluation.vae)
    moved = images * values * (4 if is_latents else 1)
    return Kind(LOADER, 0, moved, moved / PCIE, LOADER)


def _network(collectives: list, ranks: int, machine: Machine) -> Kind:
    links = replace(machine.links, reached=1.0)
    sent = sum(one.sent(ranks) for one in collectives) if ranks > 1 else 0.0
    return Kind(NETWORK, 0, sent, sent / links.ring_bandwidth(-(-ranks // links.per_node), ranks), NETWORK)


def _bytes(precision: str) -> int:
    return VALUE_BYTES.get(precision, 4)                                       # of tf32: it is kept in fp32
