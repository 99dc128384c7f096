"""Bytes and seconds of communication between DeepSpeed's ranks in a training step, by ZeRO stage.

In a ring of G ranks, each rank sends (G-1)/G S bytes for an all-gather or a reduce-scatter of S bytes, and twice that for an all-reduce.
The calls follow DeepSpeed 0.19's code and are counted one by one in ``benchmarks/communication.py``:

    stage 0      all-reduce of the gradients, after the last micro step
    stage 1      the same (buckets for several ranks are all-reduced, not reduce-scattered); all-gather of the new weights
    stage 2      the same, but the all-reduce at every micro step
    stage 3      at every micro step an all-gather of the weights for the forward, another for those released before the backward
                 (by default almost none), and a reduce-scatter of the gradients
    Muon         parts of matrices to the rank that owns them, and their updates back: two all-to-all after the step's gradients

Weights and gradients are sent in the precision of the forward. Seconds are for NCCL's rings: a ring crosses a node boundary
once, so the network adapters of a node share the work, and each hop has the latency assumed by NCCL's tuner.
"""

import math
from dataclasses import dataclass

from ditscale.cost.hardware import Links
from ditscale.cost.memory import VALUE_BYTES

SMALL_PER_BLOCK = 5                                                            # biases, which stage 3 gathers one by one after a step


@dataclass(frozen=True)
class Sharding:
    """The communication settings of a DeepSpeed JSON; the defaults are DeepSpeed's. Buckets and distances count numbers."""

    stage: int = 1
    overlap: bool = False                                                      # overlap_comm: send during the backward
    reduce_bucket: float = 5e8
    reuse_distance: float = 1e9                                                # stage 3 keeps weights used again within this distance;
    prefetch_bucket: float = 5e7                                               # with prefetching, almost all, as measured
    all_reduces: bool = True                                                   # use_multi_rank_bucket_allreduce and reduce_scatter


@dataclass(frozen=True)
class Collective:
    """One kind of collective in a step: total ``bytes`` over ``calls`` calls; the share ``hideable`` can overlap with computation."""

    steps: int                                                                 # rounds of the ring: 2 for an all-reduce
    bytes: float
    calls: int
    hideable: float = 0.0

    def sent(self, ranks: int) -> float:
        """Bytes that one rank sends."""
        return self.steps * self.bytes * (ranks - 1) / ranks


@dataclass(frozen=True)
class Communication:
    """One optimizer step of one rank: bytes sent, seconds without overlap, and the seconds that can overlap with computation."""

    bytes: float
    seconds: float
    hideable_seconds: float


def step_collectives(parameters: int, sharding: Sharding, *, precision: str, micro_steps: int, blocks: int,
                     teacher: bool = False, ranks: int = 1, exchanged: float = 0.0) -> list[Collective]:
    """The collectives of one rank during one optimizer step.

    Args:
        ranks, exchanged: bytes that an optimizer with whole matrices sends between so many ranks; of one rank the mean.
        blocks: of the model; stage 3 gathers their biases one by one.
        teacher: whether there is one; its weights are gathered after each step.
    """
    whole, stage = VALUE_BYTES[precision] * parameters, sharding.stage
    buckets = max(1, math.ceil(parameters / sharding.reduce_bucket))
    filled = int(parameters // sharding.reduce_bucket) * sharding.reduce_bucket / parameters  # before the backward ends
    hideable = filled if sharding.overlap else 0.0
    after_step = [Collective(1, whole, 1)] if teacher and stage else []
    if exchanged:
        after_step.append(Collective(1, exchanged / (ranks - 1), 2))           # whose ``sent`` is exchanged / ranks
    if stage < 3:
        times, rounds = micro_steps if stage == 2 else 1, 1 if stage and not sharding.all_reduces else 2
        gradients = Collective(rounds, times * whole, times * buckets, hideable if stage else 0.0)
        return [gradients, *([Collective(1, whole, 1)] if stage else []), *after_step]
    # Both forward and backward use the weights between two uses of one weight. Prefetching marks weights as needed again.
    gathers = 1.0 if sharding.prefetch_bucket else 1 + max(0.0, 1 - sharding.reuse_distance / 2 / parameters)
    at_once = sharding.prefetch_bucket or parameters / (SMALL_PER_BLOCK * blocks)
    return [Collective(1, micro_steps * gathers * whole, micro_steps * math.ceil(gathers * parameters / at_once),
                       float(sharding.overlap)),
            Collective(1, micro_steps * whole, micro_steps * buckets, hideable),
            Collective(1, 0.0, SMALL_PER_BLOCK * blocks), *after_step]


def communication(collectives: list[Collective], ranks: int, links: Links) -> Communication:
    """Bytes and seconds of a step's collectives; zero with a single rank."""
    if ranks == 1:
        return Communication(0.0, 0.0, 0.0)
    seconds = [ring_seconds(one, ranks, links) for one in collectives]
    return Communication(sum(one.sent(ranks) for one in collectives), sum(seconds),
                         sum(one.hideable * its for one, its in zip(collectives, seconds)))


def ring_seconds(collective: Collective, ranks: int, links: Links) -> float:
    """Seconds of a collective in rings over all ranks: its bytes at the bottleneck bandwidth, and the latency of each hop."""
    nodes = math.ceil(ranks / links.per_node)
    between = nodes - 1
    latency = links.call_seconds + collective.steps * (between * links.network_hop_seconds
                                                       + (ranks - 1 - between) * links.node_hop_seconds)
    return collective.sent(ranks) / links.ring_bandwidth(nodes, ranks) + collective.calls * latency
