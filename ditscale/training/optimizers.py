"""The optimizers: options, state, bytes, groups, construction. One class per optimizer; ``OPTIMIZERS`` lists them.

To add one, add a class here and a line in that list. Facts are available without torch, for the config and the memory model.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.models.matrices import LAST_LAYER, MODULATION, STACKED, WeightMatrix, kind_of
from ditscale.section import Count, Section

if TYPE_CHECKING:
    import torch

    from ditscale.config import TrainConfig
    from ditscale.models.parametrization import Scale
    from ditscale.training.zero.layout import Layout
    from ditscale.training.zero.matrices import Unsharded

EPS = 1e-8                                                                     # torch's default


class Optimizer(Section):
    """The interface of an optimizer.

    Attributes:
        states: its state tensors, each fp32 with the parameter's shape; their names are torch's, and are keys in checkpoints.
        counts_steps: whether it has a number ``step``, which a checkpoint restores.
        scales_and_skips: whether ``step`` supports the attributes ``grad_scale`` and ``found_inf``, tensors on the device: divide the
            gradient by the former, and change nothing if the latter is 1. They are used to clip or skip a step.
        is_elementwise: whether each number is updated only from its own gradient and state. One that needs whole matrices cannot
            use the flat partitions of ZeRO 1, 2 and 3, unless it ``gathers`` them itself.
        transfers: whether ``model.parametrization`` has rates for it.
    """

    name: str
    states: ClassVar[tuple[str, ...]]
    counts_steps: ClassVar[bool] = False
    scales_and_skips: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True
    gathers: ClassVar[bool] = False
    transfers: ClassVar[bool] = False

    def states_of(self, name: str) -> tuple[str, ...]:
        """The state tensors of one parameter; those of a group have the same."""
        return self.states

    def counts_steps_of(self, name: str) -> bool:
        """Whether the parameter's group has a number ``step``."""
        return self.counts_steps

    def state_bytes(self, parameters: int, matrices: Sequence[WeightMatrix]) -> int | Fraction:
        """Bytes of state per parameter: the mean of a model with so many parameters, of which these are its weight matrices."""
        return 4 * len(self.states)

    def step_macs(self, matrices: Sequence[WeightMatrix]) -> int:
        """MACs of a step's matrix products, over all ranks; elementwise work is not counted."""
        return 0

    def exchanged(self, matrices: Sequence[WeightMatrix], stage: int, ranks: int) -> int:
        """Numbers that ranks send one another in a step to have whole matrices, there and back, over all ranks; in the dtype of the products."""
        return 0

    def check(self, train: "TrainConfig") -> None:
        """Raises UserError for settings of a run that this optimizer does not support."""
        if not self.scales_and_skips:
            raise UserError(f"train.optimizer.name {self.name}: its steps can be neither clipped nor skipped when a gradient "
                            "is not finite, as it does not support grad_scale and found_inf; choose one that does, for example adamw")

    def check_parametrization(self, parametrization: str) -> None:
        """Raises UserError if a ``model.parametrization`` other than standard has no rates for it."""
        if not self.transfers:
            raise UserError(f"model.parametrization {parametrization} has rates for Adam's steps, and train.optimizer.name is {self.name}; use adamw")

    def check_stage(self, stage: int, where: str, *, offloads: bool = False) -> None:
        """Raises UserError if the ZeRO stage gives it less than it needs."""
        if stage and not self.is_elementwise and not self.gathers:
            raise UserError(f"{where} asks for ZeRO stage {stage}, which gives the optimizer flat partitions, and {self.name} needs "
                            "whole matrices; use stage 0, or an elementwise optimizer, for example adamw")

    def as_deepspeed(self, train: "TrainConfig") -> dict | None:
        """The params that a DeepSpeed JSON may repeat in its section ``optimizer``; None if it may not have this section."""
        return None

    def groups(self, parameters: "dict[str, torch.nn.Parameter]", scales: "dict[str, Scale]", train: "TrainConfig") -> list[dict]:
        """The parameter groups for torch; each group's learning rate is the schedule's times its ``lr_multiplier``.

        Args:
            scales: of parameters that are not standard, by name; those with equal scales are one group.
        """
        return [{"params": list(parameters.values()), "lr_multiplier": 1.0}]

    def build(self, groups: list[dict], train: "TrainConfig") -> "torch.optim.Optimizer":
        """Torch's optimizer for the groups."""
        raise NotImplementedError

    def bind(self, optimizer: "torch.optim.Optimizer", layout: "Layout | Unsharded") -> None:
        """Tells torch's optimizer what its flats consist of, before the first step."""


class AdamW(Optimizer):
    """Loshchilov and Hutter 2019; torch's fused kernel, on every device. Its betas and decay are those of ``train``."""

    name: Literal["adamw"] = "adamw"
    states: ClassVar = ("exp_avg", "exp_avg_sq")
    counts_steps: ClassVar = True
    transfers: ClassVar = True

    def as_deepspeed(self, train):
        return {"lr": train.lr, "betas": list(train.betas), "eps": EPS, "weight_decay": train.weight_decay,
                "torch_adam": True, "adam_w_mode": True}

    def groups(self, parameters, scales, train):
        found: dict = {}
        for name, p in parameters.items():
            found.setdefault(scales.get(name), []).append(p)
        return [{"params": some, "lr_multiplier": scale.lr if scale else 1.0, **(
            {"eps": EPS * scale.eps, "weight_decay": _decay(train) * scale.decay} if scale else {})} for scale, some in found.items()]

    def build(self, groups, train):
        import torch

        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, weight_decay=_decay(train), fused=True)


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), torch's fused kernel; decay is added to the gradient."""

    name: Literal["sgd"]
    momentum: float = Field(0.9, gt=0, lt=1)
    nesterov: bool = False
    states: ClassVar = ("momentum_buffer",)

    def check(self, train):
        super().check(train)
        if train.betas != (0.9, 0.999):
            raise UserError(f"train.betas {list(train.betas)} is for adamw; sgd has train.optimizer.momentum")
        if train.weight_decay_form == "independent":
            raise UserError("train.weight_decay_form independent is for adamw; sgd adds its decay to the gradient")

    def build(self, groups, train):
        import torch

        return torch.optim.SGD(groups, lr=train.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=train.weight_decay,
                               fused=True)


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the matrices of blocks, AdamW with ``train.betas`` for the rest; see ``muon.py``."""

    name: Literal["muon"]
    momentum: float = Field(0.95, gt=0, lt=1)
    nesterov: bool = True
    ns_steps: Count = Field(5, gt=0, le=20)                                    # Newton-Schulz steps
    scale: Literal["match_rms", "original", "spectral"] = "match_rms"          # of the orthogonal matrix; match_rms: AdamW's rates carry over
    adamw_lr: float | None = Field(None, gt=0)                                 # AdamW's share of the schedule peaks here; default: train.lr
    modulation: Literal["adamw", "muon"] = "adamw"                             # adaLN's matrices
    last_layer: Literal["adamw", "muon"] = "adamw"
    qkv: Literal["split", "whole"] = "split"                                   # split: q, k and v each have orthogonal updates
    states: ClassVar = ("momentum_buffer", "exp_avg", "exp_avg_sq")
    counts_steps: ClassVar = True
    is_elementwise: ClassVar = False
    gathers: ClassVar = True
    transfers: ClassVar = True

    def check_parametrization(self, parametrization):
        if self.scale != "spectral":
            raise UserError(f"model.parametrization {parametrization} with train.optimizer.scale {self.scale}: the best rate would follow the width; "
                            "use scale spectral, whose rate transfers")

    def check_stage(self, stage, where, *, offloads=False):
        if offloads:
            raise UserError(f"{where} asks for offload_optimizer: muon's matrix products would run on the host; use a strategy without offload, "
                            "for example zero2 or zero3, or train.optimizer.name adamw")

    def stacked(self, kind: str | None) -> int:
        """How many matrices a parameter of a kind is to Muon; 0: it is AdamW's."""
        chosen = {MODULATION: self.modulation == "muon", LAST_LAYER: self.last_layer == "muon"}
        if kind is None or not chosen.get(kind, True):
            return 0
        return STACKED.get(kind, 1) if self.qkv == "split" else 1

    def states_of(self, name):
        return self.states[:1] if self.stacked(kind_of(name)) else self.states[1:]

    def counts_steps_of(self, name):
        return not self.stacked(kind_of(name))

    def state_bytes(self, parameters, matrices):
        return 8 - Fraction(4 * sum(one.parameters for one in matrices if self.stacked(one.kind)), parameters)

    def step_macs(self, matrices):
        total = 0
        for one in matrices:
            if count := self.stacked(one.kind):
                least, most = sorted((one.rows // count, one.columns))
                total += one.count * count * self.ns_steps * (2 * least**2 * most + least**3)  # X X^T and B X; A A
        return total

    def exchanged(self, matrices, stage, ranks):
        from ditscale.training.zero.cuts import off_owner

        return 2 * off_owner(matrices, [self.stacked(one.kind) for one in matrices], stage, ranks)

    def groups(self, parameters, scales, train):
        whole = {name: p for name, p in parameters.items() if self.stacked(kind_of(name))}
        ratio = (self.adamw_lr or train.lr) / train.lr
        groups = AdamW().groups({name: p for name, p in parameters.items() if name not in whole}, scales, train)
        for group in groups:
            decay = group.get("weight_decay", _decay(train))
            group |= {"whole": False, "lr_multiplier": group["lr_multiplier"] * ratio,
                      "weight_decay": decay / ratio if train.weight_decay_form == "independent" else decay}
        # An orthogonal update has muP's size at any width: only a matrix whose inputs are multiplied has a rate of its own.
        found: dict = {}
        for name, p in whole.items():
            found.setdefault(scales[name].multiplier if name in scales else 1.0, []).append(p)
        return groups + [{"params": some, "whole": True, "lr_multiplier": 1 / multiplier, "weight_decay": _decay(train) * multiplier}
                         for multiplier, some in found.items()]

    def build(self, groups, train):
        import torch

        from ditscale.training.muon import SCALES, OrthogonalizedMomentum

        # In fp32, sums over ranks and stages agree; on a CPU bf16 would be no faster.
        in_bf16 = train.precision == "bf16" and groups[0]["params"][0].device.type != "cpu"
        return OrthogonalizedMomentum(groups, momentum=self.momentum, nesterov=self.nesterov, steps=self.ns_steps, scale=SCALES[self.scale],
                                      dtype=torch.bfloat16 if in_bf16 else torch.float32, lr=train.lr, betas=train.betas,
                                      weight_decay=_decay(train), fused=True)

    def bind(self, optimizer, layout):
        optimizer.bind(layout, lambda name: self.stacked(kind_of(name)))


def _decay(train: "TrainConfig") -> float:
    """What AdamW multiplies the learning rate with. A hidden matrix under muP has this times m at a rate divided by m: the same decay."""
    return train.weight_decay if train.weight_decay_form == "coupled" else train.weight_decay / train.lr


OPTIMIZERS = {"adamw": AdamW, "sgd": Sgd, "muon": Muon}
