"""The accelerator: the only file that depends on kinds of devices. Everything else uses a ``torch.device``.

The torch module of each kind (``torch.cuda``, ``torch.xpu``, ``torch.hpu``) has streams, events and memory under the same names. Training
uses the kind that DeepSpeed's ``get_accelerator`` finds; other commands detect it without loading DeepSpeed.
"""

import os
from contextlib import contextmanager

import torch

from ditscale.errors import UserError

KINDS = ("cuda", "xpu", "hpu", "cpu")                                          # ROCm's name in torch is cuda
WORDS = "cuda (NVIDIA, and AMD by ROCm), xpu (Intel), hpu (Gaudi), cpu"
NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"                                  # PyTorch then looks for GPUs without making a context
CHOSEN = "DS_ACCELERATOR"                                                      # DeepSpeed's environment variable, which overrides the kind that it finds


def kind_here() -> str:
    """The kind of accelerator of this machine, "cpu" if there is none.

    Raises:
        UserError: the environment variable names an unknown kind.
    """
    if os.environ.get(CHOSEN):
        return checked_kind(os.environ[CHOSEN], f"{CHOSEN}={os.environ[CHOSEN]}")
    return next((kind for kind in KINDS[:-1] if _is_there(kind)), "cpu")


def checked_kind(kind: str, who: str) -> str:
    """Raises UserError for an unsupported kind of accelerator."""
    if kind not in KINDS:
        raise UserError(f"{who}: the accelerator '{kind}' is not supported; supported are {WORDS}. {CHOSEN}=cpu trains on the CPU")
    return kind


def _is_there(kind: str) -> bool:
    found = getattr(torch, kind, None)
    return found is not None and found.is_available()


def needs_an_accelerator(error: Exception) -> bool:
    """Whether an error on the CPU says that the code is for accelerators alone."""
    return isinstance(error, NotImplementedError) or any(kind in str(error).lower() for kind in KINDS[:-1])


def local_device(kind: str | None = None) -> torch.device:
    """This rank's accelerator, or the CPU if there is none."""
    kind = kind or kind_here()
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")))


def use(device: torch.device) -> None:
    """Makes it the current device of the process."""
    if is_accelerator(device):
        module_of(device).set_device(device)


def names() -> list[str]:
    """The device for ``--device``, if it exists here."""
    kind = kind_here()
    return ["cpu"] if kind == "cpu" else ["cpu", *(f"{kind}:{number}" for number in range(getattr(torch, kind).device_count()))]


def is_accelerator(device: torch.device | str) -> bool:
    """Whether the device is an accelerator, with its own queue and memory."""
    return torch.device(device).type != "cpu"


def module_of(device: torch.device):
    """The torch module of an accelerator's kind, with ``Stream``, ``Event``, ``stream``, ``current_stream`` and the functions used below."""
    return getattr(torch, device.type)


def accelerator_name(device: torch.device) -> str:
    """The vendor's name of the device."""
    return module_of(device).get_device_name(device)


def synchronize(device: torch.device) -> None:
    """Waits for all queued work."""
    if is_accelerator(device):
        module_of(device).synchronize(device)


def total_memory(device: torch.device) -> int:
    """Memory of an accelerator in bytes."""
    return module_of(device).get_device_properties(device).total_memory


def peak_memory(device: torch.device) -> int:
    """Peak bytes of tensors on an accelerator since ``forget_peak_memory``."""
    return module_of(device).max_memory_allocated(device)


def forget_peak_memory(device: torch.device) -> None:
    """Releases unused memory and restarts the peak count."""
    module_of(device).empty_cache()
    module_of(device).reset_peak_memory_stats(device)


def may_fork() -> bool:
    """Whether runs may be forked from this process, which has PyTorch loaded. Forks with other kinds were not tried."""
    os.environ[NVML_CHECK] = "1"
    return kind_here() in ("cuda", "cpu")


def is_bad_fork(kind: str) -> bool:
    """Whether this process was forked from one that had used a GPU, and so cannot use one, which it is to do.

    Where there is no GPU, looking for one without NVML counts as use (FFCV does on import), and does no harm to the kind "cpu".
    """
    return kind == "cuda" and getattr(torch.cuda, "_is_in_bad_fork", bool)()


@contextmanager
def full_fp32():
    """Disables TF32 in matrix products and convolutions; restores the settings afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul           # no effect on other kinds
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def reproducible():
    """Makes results the same every time and on every rank: full fp32, the same algorithm for the same batch, and one CPU
    thread, as sums split among threads round differently."""
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
