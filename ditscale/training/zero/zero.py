"""The DeepSpeed engine and the internals that training needs. ``layout.py`` describes where data is; this file moves it."""

import warnings
from collections.abc import Iterable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ditscale.config import RunConfig
from ditscale.errors import UserError
from ditscale.models.dit import DiT
from ditscale.training.optimizers import Optimizer
from ditscale.training.zero import copies, private
from ditscale.training.zero.layout import Layout, Made, Piece, weights_of
from ditscale.training.zero.strategy import deepspeed_config, offloads

LINEAR = torch.nn.functional.linear
GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor     # its name since torch 2.13, and before


def make_engine(model: DiT, config: RunConfig, world_size: int):
    """A DeepSpeed engine with the run's optimizer (which never needs JIT compilation).

    Raises:
        UserError: DeepSpeed refuses the strategy, or lacks something without a replacement.
    """
    import deepspeed

    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = config.train.optimizer.build(config.train.optimizer.groups(named, model.scales, config.train), config.train)
    groups, shapes = [group["params"] for group in optimizer.param_groups], {name: p.shape for name, p in named.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                        # deprecations inside DeepSpeed that we cannot fix
        settings = _accepted(deepspeed_config(config, world_size), config.resources.deepspeed)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    flat = engine.zero_optimization_stage() in (1, 2)
    engine.made = Made(optimizer, groups, shapes, offloads(config), flat and private.hands_out_fragments(engine))
    if (note := private.check(engine)) and dist.get_rank() == 0:
        print(f"warning: {note}", flush=True)
    if _keeps_flats(engine):
        copies.share_weights(engine)
    return engine


def _accepted(settings: dict, path: str) -> dict:
    """The settings, if DeepSpeed accepts them.

    Raises:
        UserError: it does not; known problems with a file were reported before.
    """
    import deepspeed

    try:
        deepspeed.DeepSpeedConfig(settings)
    except Exception as error:                                                 # pydantic's errors, assertions, DeepSpeed's errors
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if hasattr(error, "errors"):
            first = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise UserError(f"resources.deepspeed: DeepSpeed {private.version()} refuses {path}: {first}") from None
    return settings


def _keeps_flats(engine) -> bool:
    """Whether masters and reduced gradients are flat on the accelerator: stages 1 and 2 without offload."""
    return engine.zero_optimization_stage() in (1, 2) and not engine.made.offloads


def destroy(engine) -> None:
    """Frees the engine's memory, and undoes what stage 3 leaves behind: its replacement of torch's linear function, and the model in
    a list inside DeepSpeed, which would keep it and its optimizer in memory."""
    from deepspeed.runtime.zero import parameter_offload

    engine.destroy()
    torch.nn.functional.linear = LINEAR
    running = getattr(parameter_offload, "FWD_MODULE_STACK", [])
    running[:] = [module for module in running if module is not engine.module]


def forward_dtype(config: RunConfig) -> torch.dtype:
    """The precision of the forward weights."""
    return torch.bfloat16 if config.train.precision == "bf16" else torch.float32


def optimizer_state(engine, layout: Layout, options: Optimizer) -> list[dict]:
    """The optimizer state of each flat; created as zeros if no step has been taken yet."""
    state = engine.made.optimizer.state
    for master, name in zip(layout.masters, layout.first_names, strict=True):
        if not state[master]:
            counts = {"step": torch.zeros((), device=master.device)} if options.counts_steps_of(name) else {}
            state[master] = {**counts, **{kind: torch.zeros_like(master) for kind in options.states_of(name)}}
    return [state[master] for master in layout.masters]


@torch.no_grad()
def set_masters(engine, layout: Layout, whole: dict[str, Tensor]) -> None:
    """Sets the fp32 masters from full named tensors, and the forward weights from the masters. Collective."""
    layout.scatter(whole, layout.masters)
    if layout.stage in (1, 2):
        for parameters, master in zip(engine.made.groups, layout.masters, strict=True):
            weights = weights_of(parameters, master, layout.shards)
            mine = weights.view(layout.shards, -1)[layout.rank]
            mine.copy_(master)
            if layout.shards > 1:
                GATHER(weights, mine.clone())
    if layout.stage == 3:
        import deepspeed

        for name, p in layout.parameters.items():
            with deepspeed.zero.GatheredParameters([p], modifier_rank=0):
                if dist.get_rank() == 0:
                    p.copy_(whole[name])


def _reduces_with_nobody(engine) -> bool:
    """Whether this is the only rank, at a stage that leaves gradients with their parameters until the batch is complete."""
    return (engine.zero_optimization_stage() == 1 and _keeps_flats(engine) and dist.get_world_size() == 1
            and private.takes_flat_gradients(engine))


def backward(engine, loss: Tensor) -> None:
    """Accumulates the loss's gradient, and at the end of a batch reduces it over the ranks."""
    with engine.no_sync() if _reduces_with_nobody(engine) else nullcontext():
        engine.backward(loss)


def gradients(engine, layout: Layout) -> Iterable[tuple[Piece, Tensor]]:
    """This rank's parts of the reduced gradient before ``engine.step()`` at the end of accumulation, each with its piece.

    A single rank at stage 1 makes it contiguous on the way, so that DeepSpeed has nothing to flatten. Iterate exactly once per step.
    """
    if _reduces_with_nobody(engine):
        return copies.lay_end_to_end(engine, layout)
    if layout.stage == 3:
        parts = private.partitions(engine)
        return [(piece, parts[layout.parameters[piece.name]].view(-1)[:piece.numel]) for piece in layout.mine]
    if layout.stage:
        if engine.made.hands_out_fragments:
            return [(piece, private.fragment_of_gradient(layout.parameters[piece.name])) for piece in layout.mine]
        return _parts_of_whole_gradients(layout)
    return [(piece, layout.parameters[piece.name].grad) for piece in layout.mine]


def _parts_of_whole_gradients(layout: Layout) -> list[tuple[Piece, Tensor]]:
    """This rank's parts of gradients that all ranks gather, one after another. Collective."""
    from deepspeed.utils import safe_get_full_grad

    mine, found = {piece.name: piece for piece in layout.mine}, []
    for name, p in layout.parameters.items():
        whole = safe_get_full_grad(p).reshape(-1)
        if name in mine:
            found.append((mine[name], whole[mine[name].start:mine[name].start + mine[name].numel].clone()))
    return found


class SecondModel:
    """The forward weights of a second model next to the engine's, with the same architecture, set from flats in the engine's layout.

    The weights have the training precision and are complete on every rank, also at stage 3. If a stage stores parameters
    contiguously, they are views into the buffer that receives the ranks' parts.
    """

    def __init__(self, layout: Layout, model: nn.Module, dtype: torch.dtype):
        self.layout = layout
        self.parameters = {name: p for name, p in model.named_parameters() if name in layout.shapes}
        device = next(model.parameters()).device
        self.buffers = [torch.empty(layout.shards * flat.numel(), dtype=dtype, device=device) for flat in layout.masters]
        self.copies: list[tuple[Tensor, Tensor]] = []                          # (part of a weight, its position in a buffer)
        found: dict[str, list[tuple[Piece, int]]] = {name: [] for name in self.parameters}
        for rank, pieces in enumerate(layout.pieces):
            for piece in pieces:
                found[piece.name].append((piece, rank * layout.masters[piece.group].numel() + piece.offset))
        for name, places in found.items():
            self._connect(self.parameters[name], places, dtype)
        for name, p in model.named_parameters():
            if name not in layout.shapes:
                p.data = p.data.to(dtype)

    def _connect(self, p: nn.Parameter, places: list[tuple[Piece, int]], dtype: torch.dtype) -> None:
        (first, begin), buffer = places[0], self.buffers[places[0][0].group]
        if all(piece.group == first.group and at - begin == piece.start for piece, at in places):
            p.data = buffer[begin:begin + p.numel()].view(p.shape)
            return
        p.data = torch.empty(p.shape, dtype=dtype, device=buffer.device)
        for piece, at in places:
            target = p.data.view(-1)[piece.start:piece.start + piece.numel]
            self.copies.append((target, self.buffers[piece.group][at:at + piece.numel]))

    @torch.no_grad()
    def set(self, flats: list[Tensor]) -> None:
        """Rounds this rank's flats into the weights and fetches the other ranks' parts. Collective."""
        for flat, buffer in zip(flats, self.buffers, strict=True):
            mine = buffer.view(self.layout.shards, -1)[self.layout.rank]
            mine.copy_(flat.view(-1))
            if self.layout.shards > 1:
                GATHER(buffer, mine.clone())
        if self.copies:
            torch._foreach_copy_([target for target, _ in self.copies], [source for _, source in self.copies])
