"""Checks, before anything is built, that all ranks start with the same config, code, versions and data."""

import hashlib
import importlib.metadata
import os
import socket
from pathlib import Path

import torch.distributed as dist

import ditscale
from ditscale.config import RunConfig
from ditscale.data.manifest import manifest_path
from ditscale.digest import file_sha256
from ditscale.errors import UserError
from ditscale.ranks import World


def check_ready(problem: str, world: World) -> None:
    """Tells all ranks this rank's problem with starting ("" for none). Collective.

    Raises:
        UserError: on every rank, if any has a problem; the message has the rank, its host and the problem.
    """
    gathered: list = [None] * world.size
    dist.all_gather_object(gathered, (socket.gethostname(), problem))
    problems = [f"rank {rank} (on {host}): {text}" for rank, (host, text) in enumerate(gathered) if text]
    if problems:
        raise UserError("; ".join(problems))


def check_agreement(config: RunConfig, world: World) -> None:
    """Compares this rank's facts with the other ranks'. Collective.

    Raises:
        UserError: on every rank, if any differs; the message has the ranks, their hosts and both values.
    """
    if world.size == 1:
        return
    gathered: list = [None] * world.size
    dist.all_gather_object(gathered, (socket.gethostname(), facts(config)))
    (first_host, first), *others = gathered
    for rank, (host, theirs) in enumerate(others, start=1):
        differing = [f"{name}: {first[name]} and {theirs[name]}" for name in first if first[name] != theirs[name]]
        if differing:
            raise UserError(f"rank 0 (on {first_host}) and rank {rank} (on {host}) do not agree: {'; '.join(differing)}. "
                            "Every host must see the same run directory, data and installation")


def facts(config: RunConfig) -> dict[str, str]:
    """The facts that must be equal on all ranks, as short strings."""
    data = Path(config.data.path)
    manifest = file_sha256(manifest_path(data))[:12] if manifest_path(data).exists() else "missing"
    return {
        "config": hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12],
        "code": code_sha256()[:12],
        "torch": importlib.metadata.version("torch"),
        "deepspeed": importlib.metadata.version("deepspeed"),
        "data": f"{os.path.getsize(data):,} bytes, manifest {manifest}" if data.exists() else "no file",
    }


def code_sha256() -> str:
    """A hash of this package's source files, names and contents."""
    root, digest = Path(ditscale.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
