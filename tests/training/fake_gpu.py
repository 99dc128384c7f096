"""A GPU that is not there: torch's fake tensors under the name cuda, and what a step does that would make a real one wait.

Fake tensors have shapes, types and devices and no numbers, so what asks for a number (``.item()``, ``nonzero``, ``tolist``) raises,
as does an operation with operands on two devices. Tensors of the CPU are real: a loader and its draws run as ever.
"""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
WIDE = (torch.float64, torch.complex128)


class FakeGpu(FakeTensorMode):
    """While it is entered: ``waits`` collects what a GPU would wait for, ``wide`` operations in fp64, and ``dtypes`` the result's
    of each operation.

    C++ is told that tensors are on ``meta``, and Python that they are on ``cuda``: torch's autograd engine, which is C++, asks the
    driver for the streams of a cuda tensor, and there is no driver.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.waits: list[str] = []
        self.wide: list[str] = []
        self.inside = 0                                                        # operations that torch takes apart into others
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") and torch.device(kwargs["device"]).type == "meta":  # C++ makes a tensor where it thinks another is
            kwargs["device"] = DEVICE
        if func is torch.ops.prim.device.default:
            return torch.device("meta")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_there = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not is_there and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            return func(*args, **kwargs)
        if func in COPIES:
            self._look_at_copy(func, tensors, args, kwargs)
        if not is_there and func is torch.ops.aten._to_copy.default:            # to the device: there are no numbers to take along
            return super().__torch_dispatch__(torch.ops.aten.empty_strided.default, (), (tensors[0].shape, tensors[0].stride()),
                                              {"dtype": kwargs.get("dtype") or tensors[0].dtype, "device": DEVICE})
        self.inside += 1
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.inside -= 1
        if not self.inside:
            self._look_at_results(func, out)
        return out

    def _look_at_results(self, func, out) -> None:
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, FakeTensor) and leaf.device.type == DEVICE.type]
        self.dtypes.setdefault(func.overloadpacket.__name__, set()).update(result.dtype for result in results[:1])
        self.wide += [f"{func}" for result in results if result.dtype in WIDE]

    def _look_at_copy(self, func, tensors, args, kwargs) -> None:
        source = tensors[-1]
        target = torch.device(kwargs["device"]) if kwargs.get("device") else tensors[0].device
        blocks = not kwargs.get("non_blocking") and not (func is torch.ops.aten.copy_.default and len(args) > 2 and args[2])
        if source.device.type != target.type and blocks:
            self.waits.append(f"a copy of {tuple(source.shape)} from {source.device.type} to {target.type}")


class FlashAttention(TorchFunctionMode):
    """Attention as a GPU takes it: torch chooses its kernel by the device in C++, and would not take a fused one on ``meta``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and isinstance(args[0], FakeTensor):
            q, k, v = args
            bias = (kwargs or {}).get("attn_mask")
            if bias is None:
                return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
            bias = bias.expand(*q.shape[:3], k.shape[2])
            return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[0]
        return func(*args, **(kwargs or {}))


class Event:
    """In place of ``torch.cuda.Event``."""

    def __init__(self, **_):
        pass

    def record(self, *_):
        pass


@contextmanager
def fake_gpu():
    """A ``FakeGpu`` at work. Skips where this torch cannot follow a gradient on it."""
    gpu = FakeGpu()
    with gpu, FlashAttention(), torch.autograd.set_multithreading_enabled(False):
        try:
            (torch.ones(2, device=DEVICE, requires_grad=True) * 2).sum().backward()
        except RuntimeError as error:
            pytest.skip(f"torch {torch.__version__} cannot fake a gradient on cuda: {error}")
        yield gpu
