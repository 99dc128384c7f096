"""The environment of a run, for its record."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import torch

from ditscale import __version__
from ditscale.cost.hardware import cpu_name
from ditscale.device import accelerator_name, is_accelerator


def environment(device: torch.device) -> dict:
    """Versions, device, host and code version."""
    packages = {}
    for name in ("torch", "deepspeed", "ffcv", "numpy"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    name = accelerator_name(device) if is_accelerator(device) else cpu_name()
    return {"ditscale": __version__, "git_commit": git_commit(), "python": sys.version.split()[0], **packages,
            "platform": platform.platform(), "host": socket.gethostname(), "device": name, "threads": torch.get_num_threads(),
            "cores": os.cpu_count()}


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with ``+dirty`` for uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():                                    # a wheel installed inside another repository
        return None
    try:
        shown = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty=+dirty", "--abbrev=12", "--exclude=*"],
                               capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None if shown.returncode == 0 else None
