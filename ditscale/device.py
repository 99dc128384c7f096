"""The accelerator: the only file that knows the kinds of devices. Everything else uses a ``torch.device``.

A kind's torch module (``torch.cuda``, ``torch.xpu``, ``torch.hpu``) has streams, events and memory under the same names. Training
takes the kind that DeepSpeed's ``get_accelerator`` finds; commands that do not train look for it without loading DeepSpeed.
"""

import os
from contextlib import contextmanager

import torch

from ditscale.errors import UserError

KINDS = ("cuda", "xpu", "hpu", "cpu")                                          # ROCm's name in torch is cuda
WORDS = "cuda (NVIDIA, and AMD by ROCm), xpu (Intel), hpu (Gaudi), cpu"
CHOSEN = "DS_ACCELERATOR"                                                      # DeepSpeed's variable: another kind than it finds


def kind_here() -> str:
    """The kind of accelerator of this machine, "cpu" where there is none.

    Raises:
        UserError: the environment asks for a kind that is not known here.
    """
    if os.environ.get(CHOSEN):
        return checked_kind(os.environ[CHOSEN], f"{CHOSEN}={os.environ[CHOSEN]}")
    return next((kind for kind in KINDS[:-1] if _is_there(kind)), "cpu")


def checked_kind(kind: str, who: str) -> str:
    """Raise UserError for a kind of accelerator that nothing here was written for."""
    if kind not in KINDS:
        raise UserError(f"{who}: the accelerator '{kind}' is not known here; known are {WORDS}. {CHOSEN}=cpu trains on the CPU")
    return kind


def _is_there(kind: str) -> bool:
    found = getattr(torch, kind, None)
    return found is not None and found.is_available()


def local_device(kind: str | None = None) -> torch.device:
    """This rank's accelerator, or the CPU where there is none."""
    kind = kind or kind_here()
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")))


def use(device: torch.device) -> None:
    """Make it the process's own."""
    if is_accelerator(device):
        module_of(device).set_device(device)


def names() -> list[str]:
    """What ``--device`` may be here."""
    kind = kind_here()
    return ["cpu"] if kind == "cpu" else ["cpu", *(f"{kind}:{number}" for number in range(getattr(torch, kind).device_count()))]


def is_accelerator(device: torch.device | str) -> bool:
    """Whether work is queued there, and memory is its own."""
    return torch.device(device).type != "cpu"


def module_of(device: torch.device):
    """The torch module of an accelerator's kind, with ``Stream``, ``Event``, ``stream``, ``current_stream`` and what is below."""
    return getattr(torch, device.type)


def accelerator_name(device: torch.device) -> str:
    """As its maker calls it."""
    return module_of(device).get_device_name(device)


def synchronize(device: torch.device) -> None:
    """Wait for what is queued."""
    if is_accelerator(device):
        module_of(device).synchronize(device)


def total_memory(device: torch.device) -> int:
    """Bytes of an accelerator."""
    return module_of(device).get_device_properties(device).total_memory


def peak_memory(device: torch.device) -> int:
    """Bytes of tensors at the peak, of an accelerator, since ``forget_peak_memory``."""
    return module_of(device).max_memory_allocated(device)


def forget_peak_memory(device: torch.device) -> None:
    """Give back what no tensor needs, and count the peak from here on."""
    module_of(device).empty_cache()
    module_of(device).reset_peak_memory_stats(device)


@contextmanager
def full_fp32():
    """No TF32 in matrix products and convolutions; settings are as before afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul           # on other kinds both change nothing
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def reproducible():
    """The same numbers every time and on every rank: full fp32, the same algorithm for the same batch, and one CPU
    thread: sums that split among threads round otherwise."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    torch.set_num_threads(1)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with full_fp32():
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = before
