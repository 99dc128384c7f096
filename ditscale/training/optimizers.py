"""The optimizers: options, state, bytes, groups, construction. One class per optimizer; ``OPTIMIZERS`` lists them.

To add one, add a class here and a line in that list. Facts are available without torch, for the config and the memory model.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditscale.errors import UserError
from ditscale.section import Section

if TYPE_CHECKING:
    import torch

    from ditscale.config import TrainConfig
    from ditscale.models.parametrization import Scale

EPS = 1e-8                                                                     # torch's default


class Optimizer(Section):
    """The interface of an optimizer.

    Attributes:
        states: its state tensors, each fp32 with the parameter's shape; their names are torch's, and are keys in checkpoints.
        counts_steps: whether it has a number ``step``, which a checkpoint restores.
        scales_and_skips: whether ``step`` supports the attributes ``grad_scale`` and ``found_inf``, tensors on the device: divide the
            gradient by the former, and change nothing if the latter is 1. They are used to clip or skip a step.
        is_elementwise: whether each number is updated only from its own gradient and state. One that needs whole matrices cannot
            use the flat partitions of ZeRO 1, 2 and 3.
        transfers: whether ``model.parametrization`` has rates for it.
    """

    name: str
    states: ClassVar[tuple[str, ...]]
    counts_steps: ClassVar[bool] = False
    scales_and_skips: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True
    transfers: ClassVar[bool] = False

    @property
    def state_bytes(self) -> int:
        """Bytes of state per parameter."""
        return 4 * len(self.states)

    def check(self, train: "TrainConfig") -> None:
        """Raises UserError for settings of a run that this optimizer does not support."""
        if not self.scales_and_skips:
            raise UserError(f"train.optimizer.name {self.name}: its steps can be neither clipped nor skipped when a gradient "
                            "is not finite, as it does not support grad_scale and found_inf; choose one that does, for example adamw")

    def check_stage(self, stage: int, where: str) -> None:
        """Raises UserError if the ZeRO stage gives it less than it needs."""
        if stage and not self.is_elementwise:
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


def _decay(train: "TrainConfig") -> float:
    """What AdamW multiplies the learning rate with. A hidden matrix under muP has this times m at a rate divided by m: the same decay."""
    return train.weight_decay if train.weight_decay_form == "coupled" else train.weight_decay / train.lr


OPTIMIZERS = {"adamw": AdamW, "sgd": Sgd}
