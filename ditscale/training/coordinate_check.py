"""The coordinate check: do a model's activations keep their size as its width grows? (Yang et al., arXiv 2203.03466, appendix D)

A few steps of the real objective at several widths; for each layer the slope of log2 of its mean |output| against log2 of the width.
Where the parametrization transfers learning rates, every slope stays near zero. Steps 1 and 2 show little behind gates that start at
zero, so the last of at least three is judged. The spectral variant takes ||W - W0|| sqrt(inputs / outputs) of each matrix in place of
the output: the size of what has been learned.
"""

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ditscale import randomness
from ditscale.config import RunConfig
from ditscale.data.loader import StreamLoader
from ditscale.data.prepare import make_prepare
from ditscale.errors import UserError
from ditscale.models.dit import DiT
from ditscale.models.layers import LabelEmbedder, PatchEmbed
from ditscale.models.linear import Linear
from ditscale.models.sizes import Size, name_of, parse_model_name
from ditscale.objectives.from_config import build_model, feature_batches, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.training.zero.matrices import Unsharded

if TYPE_CHECKING:
    import pandas as pd

WIDTHS = (64, 128, 256, 512)
LEAST_STEPS = 3
KEEPS, GROWS = 0.15, 0.3                                                       # |slope| up to which a layer passes, from which it fails
PASSES, FAILS, UNDECIDED = "PASSES", "FAILS", "UNDECIDED"


def at_width(config: RunConfig, width: int) -> RunConfig:
    """The config with a model of this width, and the depth, patch size and head width of its own.

    Raises:
        UserError: no such model exists.
    """
    name = parse_model_name(config.model.name)
    head = name.dims.hidden_size // name.dims.num_heads
    if width < 1 or width % head:
        raise UserError(f"width {width} is not a multiple of {head}, the width of a head of {config.model.name}")
    other = name_of(Size(name.dims.depth, width, width // head), name.patch_size)
    values = config.model_dump(mode="json", exclude_unset=True)
    values["model"]["name"] = other
    return RunConfig.model_validate(values)


def measure(config: RunConfig, widths: Iterable[int] = WIDTHS, *, seeds: int = 2, steps: int = 5, spectral: bool = False,
            device: torch.device | str = "cpu", say: Callable[[str], None] = lambda line: None) -> "pd.DataFrame":
    """Trains each width for a few steps, in fp32, at ``train.lr`` without a schedule.

    Returns:
        a row per width, seed, number of steps before (0: at the start) and layer, with its ``size`` and the step's ``loss``. Outputs
        are those of a step's forward, so that the last ones are after ``steps - 1``.

    Raises:
        UserError: fewer than three steps or widths, a width that does not fit, or no data.
    """
    import pandas as pd

    widths = sorted(set(widths))
    if len(widths) < 3 or steps < LEAST_STEPS or seeds < 1:
        raise UserError(f"a coordinate check needs 3 widths, {LEAST_STEPS} steps and a seed or more; got {len(widths)}, {steps} and {seeds}")
    for width in widths:
        at_width(config, width)
    rows: list[dict] = []
    for width in widths:
        for seed in range(seeds):
            own = at_width(config, width).model_copy(update={"seed": config.seed + seed})
            say(f"{own.model.name}, seed {own.seed}: {steps} steps")
            rows += [{"width": width, "seed": own.seed, **row} for row in _steps(own, steps, spectral, torch.device(device))]
    return pd.DataFrame(rows)


def _steps(config: RunConfig, steps: int, spectral: bool, device: torch.device) -> list[dict]:
    """One model: the rows of all its steps."""
    model, objective, prepare = build_model(config).to(device), make_objective(config), make_prepare(config.data)
    objective.buffers = {name: value.to(device) for name, value in objective.buffers.items()}
    if objective.has_teacher:
        objective.teacher = copy.deepcopy(model).requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = config.train.optimizer.build(config.train.optimizer.groups(trained, model.scales, config.train), config.train)
    config.train.optimizer.bind(optimizer, Unsharded(trained))
    for group in optimizer.param_groups:
        group["lr"] = config.train.lr * group["lr_multiplier"]
    first = {name: p.detach().clone() for name, p in model.named_parameters()} if spectral else {}
    batch = config.train.global_batch
    rows: list[dict] = []
    sizes: dict[str, Tensor] = {}
    hooks = [] if spectral else [layer.register_forward_hook(_recorder(sizes, name)) for name, layer in layers(model)]
    streams = {**objective.streams, **prepare.streams}
    with closing(StreamLoader(config.data.path, seed=config.seed, global_batch=batch, micro_batch=batch, end_images=steps * batch,
                              pick=prepare.pick, backend="mmap")) as loader:
        for step, (raw, labels, positions, *features) in enumerate(feature_batches(loader, config)):
            draws = randomness.draw(config.seed, positions.to(device), streams)
            sizes.clear()
            clean = CleanBatch(prepare(raw.to(device), draws), labels.to(device), step * batch, *(one.to(device) for one in features))
            terms = objective(model, clean, draws)
            optimizer.zero_grad()
            terms.loss.backward()
            _clip(trained.values(), config.train.grad_clip)
            optimizer.step()
            if objective.has_teacher:
                _follow(objective.teacher, model, objective.teacher_momentum_at((step + 1) * batch))
            objective.after_step(lambda value: value)
            found = _learned(model, first) if spectral else {name: float(size) for name, size in sizes.items()}
            rows += [{"step": step + spectral, "layer": name, "size": size, "loss": terms.loss.item()} for name, size in found.items()]
    for hook in hooks:
        hook.remove()
    return rows


def layers(model: DiT) -> list[tuple[str, nn.Module]]:
    """Every layer with a matrix that makes activations, under the matrix's name without ``.weight``."""
    places: dict[type[nn.Module], str] = {PatchEmbed: ".proj", LabelEmbedder: ".embedding_table", Linear: ""}
    return [(name + end, layer) for name, layer in model.named_modules() for kind, end in places.items() if isinstance(layer, kind)]


def _recorder(sizes: dict[str, Tensor], name: str):
    def record(layer, inputs, output):
        sizes.setdefault(name, output.detach().abs().mean())                   # a second pass of a step (MDT's) does not count
    return record


@dataclass(frozen=True)
class Slope:
    """A layer's slope at the start and at the last step, NaN where its size is zero; blocks of one stack count as one layer."""

    layer: str
    at_start: float
    slope: float

    @property
    def verdict(self) -> str:
        return PASSES if abs(self.slope) <= KEEPS else FAILS if abs(self.slope) > GROWS else UNDECIDED


def mean_sizes(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The mean size over seeds and over the blocks of one stack: layer, step, width, size."""
    layer = rows["layer"].str.replace(r"blocks\.\d+", "blocks.*", regex=True)
    return rows.assign(layer=layer).groupby(["layer", "step", "width"], as_index=False)["size"].mean()


def slopes(rows: "pd.DataFrame") -> list[Slope]:
    """The slope of log2 size, a mean over seeds and blocks, against log2 width by least squares; the largest first."""
    sizes = mean_sizes(rows).set_index(["layer", "step", "width"])["size"].unstack()
    first, last = min(rows["step"]), max(rows["step"])
    found = [Slope(layer, _slope(sizes.loc[layer, first]) if first == 0 else math.nan, _slope(sizes.loc[layer, last]))
             for layer in sizes.index.unique("layer")]
    return sorted(found, key=lambda one: -abs(one.slope) if one.slope == one.slope else 0.0)


def verdict(found: list[Slope]) -> tuple[str, str]:
    """The word, and a sentence that names the layers at fault."""
    for word, sentence in ((FAILS, "sizes follow the width in"), (UNDECIDED, f"slopes between {KEEPS:g} and {GROWS:g}, or no output yet, in")):
        named = [f"{one.layer}.weight ({one.slope:+.2f})" for one in found if one.verdict == word]
        if named:
            return word, f"{sentence} {', '.join(named)}"
    return PASSES, f"no layer's slope is over {KEEPS:g}"


def _slope(sizes: "pd.Series") -> float:
    if not (sizes > 0).all() or not np.isfinite(sizes).all():
        return math.nan
    return float(np.polyfit(np.log2(sizes.index.to_numpy(float)), np.log2(sizes.to_numpy()), 1)[0])


@torch.no_grad()
def _clip(parameters: Iterable[nn.Parameter], limit: float) -> None:
    if limit:
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], limit)


@torch.no_grad()
def _follow(teacher: nn.Module, model: nn.Module, momentum: float) -> None:
    for old, new in zip(teacher.parameters(), model.parameters()):
        old.lerp_(new, 1 - momentum)


@torch.no_grad()
def _learned(model: DiT, first: dict[str, Tensor]) -> dict[str, float]:
    """||W - W0||_2 sqrt(inputs / outputs) of each trained matrix, with the multiplier of its inputs."""
    found = {}
    for name, layer in layers(model):
        change = (model.get_parameter(f"{name}.weight") - first[f"{name}.weight"]).flatten(1)
        change = change.T if isinstance(layer, LabelEmbedder) else change      # a table's rows are its inputs
        found[name] = getattr(layer, "input_scale", 1.0) * float(torch.linalg.matrix_norm(change, 2)) * (change.shape[1] / change.shape[0]) ** 0.5
    return found
