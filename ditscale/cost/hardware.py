"""Compute of this machine or of a named accelerator: the dense bf16 peak, or the CPU's measured speed."""

import os
import re
import subprocess
from dataclasses import dataclass, replace

from ditscale.cost.cpu_peak import cpu_flops
from ditscale.cost.memory import GIB
from ditscale.errors import UserError, did_you_mean

# Dense bf16 peak in FLOP/s by a part of the device's name (from vendors' data sheets, never the sparse number).
DENSE_BF16_FLOPS = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "B200": 2.25e15,
                    "L40S": 362e12, "H20": 148e12}
# The same in fp32 without tensor cores, and the memory's speed in bytes/s; TF32 is half of bf16 on all of them.
FP32_FLOPS = {"H200": 67e12, "H100 NVL": 60e12, "H100 PCIe": 51e12, "H100": 67e12, "A100": 19.5e12, "B200": 75e12, "L40S": 91.6e12,
              "H20": 44e12}
MEMORY_BANDWIDTH = {"H200": 4.8e12, "H100 NVL": 3.9e12, "H100 PCIe": 2.0e12, "H100": 3.35e12, "A100": 2.039e12, "B200": 8e12,
                    "L40S": 0.864e12, "H20": 4e12}
# GB/s per GPU within a node, one direction (data sheets: NVLink, or PCIe if NVLink joins only pairs or none), and Gb/s of
# network per GPU in common clusters.
LINKS = {"H200": (450, 400), "H100 NVL": (64, 400), "H100 PCIe": (64, 200), "H100": (450, 400), "A100": (300, 200),
         "B200": (900, 400), "L40S": (32, 200), "H20": (450, 400)}
OTHER_LINKS = (32, 100)                                                        # PCIe 4
MOST_DEVICES = 1_000_000
MEMORY_GIB = {"H200": 141, "H100 NVL": 94, "H100": 80, "A100": 80, "B200": 180, "L40S": 48, "H20": 96}      # vendors' GB, taken as GiB


@dataclass(frozen=True)
class Links:
    """Interconnect of devices: bytes/s per device within a node and over the network, and the share that is reached.

    Hop latencies are those of NCCL's tuner for rings (protocol Simple). The defaults are for gloo on one host, the best
    measured by benchmarks/communication.py; other hosts may differ.
    """

    node_bandwidth: float = 1.0e9
    network_bandwidth: float = 1.0e9
    per_node: int = 1 << 30
    reached: float = 1.0
    node_hop_seconds: float = 100e-6
    network_hop_seconds: float = 100e-6
    call_seconds: float = 0.0

    def ring_bandwidth(self, nodes: int, ranks: int) -> float:
        """Bytes/s per rank in rings: with several nodes, all adapters of a node share the traffic between nodes."""
        if nodes == 1:
            return self.reached * self.node_bandwidth
        return self.reached * min(self.node_bandwidth, self.network_bandwidth * min(ranks / nodes, self.per_node))


@dataclass(frozen=True)
class Machine:
    """Devices for runs, and the peak FLOP/s and memory of one device (a GPU, or one CPU core)."""

    kind: str                                                                  # "gpu" or "cpu"
    name: str
    devices: int
    peak_flops: float
    memory_bytes: int = 0                                                      # 0: unknown
    links: Links = Links()

    @property
    def memory_bandwidth(self) -> float:
        """Bytes/s of a GPU's memory, by its name; 0: not known."""
        return _by_name(MEMORY_BANDWIDTH, self.name.upper(), 0.0) if self.kind == "gpu" else 0.0

    def peak(self, precision: str) -> float:
        """FLOP/s in bf16 (as in fp16), tf32 or fp32."""
        if precision == "fp32":
            return _by_name(FP32_FLOPS, self.name.upper(), self.peak_flops)
        return self.peak_flops / (2 if precision == "tf32" else 1)

    @property
    def threads_per_device(self) -> int:
        return max(1, (os.cpu_count() or 1) // self.devices)

    def shared_by(self, runs: int) -> "Machine":
        """What each of so many runs has of it, that share its devices."""
        return replace(self, peak_flops=self.peak_flops / runs, memory_bytes=self.memory_bytes // runs)


def this_machine() -> Machine:
    """GPUs if nvidia-smi finds any; otherwise CPU cores, with their peak measured by a short fp32 matrix product (cpu_peak.py)."""
    names = _gpu_names()
    if names:
        return Machine("gpu", names[0], len(names), dense_bf16_flops(names[0]) or 100e12, _by_name(MEMORY_GIB, names[0], 0) * GIB,
                       gpu_links(names[0]))
    cores, name = len(os.sched_getaffinity(0)), cpu_name()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine("cpu", name, cores, cpu_flops(name, cores) / cores, memory // cores)


def named_machine(text: str) -> Machine:
    """``H100:8``: eight devices of that name, to plan for another machine.

    Raises:
        UserError: the name is unknown, or the number is invalid.
    """
    name, _, count = text.partition(":")
    flops = {known.upper(): value for known, value in DENSE_BF16_FLOPS.items()}.get(name.upper())   # not by a part: an A1000 is no A100
    if flops is None:
        raise UserError(f"--on {text}: no accelerator '{name}'{did_you_mean(name.upper(), DENSE_BF16_FLOPS) or '.'} "
                        f"There are {', '.join(DENSE_BF16_FLOPS)}")
    if count and not (count.isascii() and count.isdecimal() and len(count) < 9 and 0 < int(count) <= MOST_DEVICES):
        raise UserError(f"--on {text}: '{count}' is not a number of devices, 1 to {MOST_DEVICES:,}; for example H100:8")
    return Machine("gpu", name.upper(), int(count or 1), flops, _by_name(MEMORY_GIB, name.upper(), 0) * GIB,
                   gpu_links(name))


def device_named_in(text: str) -> str | None:
    """The accelerator of the table that a cluster's word for it names: H100 for ``gpu:h100`` and ``NVIDIA-H100-80GB``; None if there is none."""
    words = set(re.split(r"[^A-Z0-9]+", text.upper()))                          # whole words: an A1000 is no A100
    return next((name for name in DENSE_BF16_FLOPS if words >= set(name.upper().split())), None)


def dense_bf16_flops(name: str) -> float | None:
    """A GPU's dense bf16 peak in FLOP/s, by its name; None if it is not in the table."""
    return _by_name(DENSE_BF16_FLOPS, name, None)


def gpu_links(name: str, network_gbps: float | None = None) -> Links:
    """Links of nodes with eight of these GPUs; ``network_gbps`` overrides the usual share of the node's network per GPU."""
    node, network = _by_name(LINKS, name.upper(), OTHER_LINKS)
    return Links(node * 1e9, (network_gbps or network) * 1e9 / 8, per_node=8, reached=0.7, node_hop_seconds=3.4e-6,
                 network_hop_seconds=14e-6, call_seconds=8.4e-6)


def _by_name(table: dict, name: str, otherwise):
    return next((value for word, value in table.items() if word.upper() in name.upper()), otherwise)


def _gpu_names() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "CPU")
    except OSError:
        return "CPU"
