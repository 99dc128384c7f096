"""The linear layer of all models, and how it stays fast on a CPU: bf16 without bf16 units, and inference in fp32."""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _cpu_has_bf16_units() -> bool:
    """Whether this machine's CPU has bf16 multiplication (AVX512-BF16, AMX or Arm's bf16)."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


CPU_HAS_BF16_UNITS = _cpu_has_bf16_units()                                     # read once: torch.compile cannot trace a file


def emulates_bf16(x: Tensor) -> bool:
    """Whether products of ``x`` would be emulated: bf16 on a CPU without bf16 units.

    In this case we multiply the bf16 operands in fp32 and round once, as a bf16 unit does (it accumulates in fp32).
    oneDNN's emulation takes 3 to 5 times as long.
    """
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and not CPU_HAS_BF16_UNITS


class Linear(nn.Linear):
    """``nn.Linear`` that stays fast on CPUs without bf16 units, see ``emulates_bf16``.

    Attributes:
        input_scale: a factor of its inputs, of muP's multiplier form (``parametrization.py``).
        packed: the weight in oneDNN's layout, of a model for inference, see ``pack``.
    """

    input_scale: float = 1.0
    packed: Tensor | None = None

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """The product, with ``gelu`` its tanh-GELU."""
        if self.input_scale != 1:
            x = x * self.input_scale
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, *(("gelu", [], "tanh") if gelu else ("none", [], "")))
        if emulates_bf16(x):
            bias = None if self.bias is None else self.bias.float()
            result = F.linear(x.float(), self.weight.float(), bias).to(x.dtype)
        else:
            result = F.linear(x, self.weight, self.bias)
        return F.gelu(result, approximate="tanh") if gelu else result


def can_pack() -> bool:
    """Whether PyTorch has oneDNN's linear layers, which it makes for its compiler; tried on x86 alone."""
    return platform.machine() in ("x86_64", "AMD64") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack(model: nn.Module) -> None:
    """Makes a frozen fp32 model on a CPU faster: its linear layers run in oneDNN instead of MKL, a GELU in the same kernel.

    DiT-nano/2 samples 1.2 times as fast. Values differ by rounding, and a row's bits do not depend on the number of rows, from 2 up.
    Does nothing where ``can_pack`` is false.
    """
    for layer in model.modules() if can_pack() else ():
        if isinstance(layer, Linear):
            layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
