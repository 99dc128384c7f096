"""What the machine at hand can compute: accelerators and their dense bf16 peak, or the CPU's measured speed."""

import os
import subprocess
import time
from dataclasses import dataclass

import numpy as np

# Dense bf16 peak in FLOP/s by a word of the device's name (makers' data sheets; never the sparse figure).
DENSE_BF16_FLOPS = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "B200": 2.25e15,
                    "L40S": 362e12, "H20": 148e12}


@dataclass(frozen=True)
class Machine:
    """Devices that runs can be placed on, and the peak FLOP/s of one of them (a GPU, or one CPU core)."""

    kind: str                                                                  # "gpu" or "cpu"
    name: str
    devices: int
    peak_flops: float

    @property
    def threads_per_device(self) -> int:
        return max(1, (os.cpu_count() or 1) // self.devices)


def this_machine() -> Machine:
    """GPUs where nvidia-smi finds some; else CPU cores, with their peak taken from a short fp32 matrix product."""
    names = _gpu_names()
    if names:
        return Machine("gpu", names[0], len(names), dense_bf16_flops(names[0]) or 100e12)
    cores = len(os.sched_getaffinity(0))
    return Machine("cpu", _cpu_name(), cores, _measured_flops() / cores)


def dense_bf16_flops(name: str) -> float | None:
    """A GPU's dense bf16 peak in FLOP/s, from its name; None for one that the table does not know."""
    return next((flops for word, flops in DENSE_BF16_FLOPS.items() if word in name), None)


def _gpu_names() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "CPU")
    except OSError:
        return "CPU"


def _measured_flops(size: int = 768, repeats: int = 8) -> float:
    """FLOP/s of all cores together, the best of a few products."""
    a = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
