"""safetensors shards of (N, c, h, w): LightningDiT's, whose format is known, and others, which the options describe.

::

    latents_rank00_shard000.safetensors    LightningDiT's: latents, latents_flip (N, c, h, w), one sample each; labels (N,)
    latents_stats.pt                       its mean and std, (1, c, 1, 1): a model sees (latent - mean) / std
"""

import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ditscale.data.latent_sources.base import (
    BATCH_BYTES,
    Facts,
    LatentRequest,
    LatentSource,
    class_labels,
    in_moments,
    label_array,
    latent_channels,
    one_kind,
    shown,
    stated_facts,
)
from ditscale.errors import UserError, first_line

ENDING, STATS = ".safetensors", "latents_stats.pt"
SHARD = re.compile(r"latents_rank(\d+)_shard(\d+)\.safetensors")
LATENTS, FLIPPED, LABELS = "latents", "latents_flip", "labels"
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


class Shard(NamedTuple):
    path: Path
    rows: int
    dtype: torch.dtype
    shape: tuple[int, ...]                                                     # of a row
    names: frozenset[str]                                                      # of its tensors


def could_be_lightningdit(path: Path) -> bool:
    return path.is_dir() and any(SHARD.fullmatch(entry.name) for entry in path.glob(f"*{ENDING}"))


def could_be_tensors(path: Path) -> bool:
    return not could_be_lightningdit(path) and (path.suffix == ENDING if path.is_file() else any(path.glob(f"*{ENDING}")))


def open_lightningdit(request: LatentRequest) -> LatentSource:
    request.without("holds", "applied", "pixel_range", "key")
    request.without_labels()
    paths = sorted(entry for entry in request.path.glob(f"*{ENDING}"))
    if not paths:
        raise UserError(f"{request.path}: no latents_rankRR_shardSSS{ENDING} in it")
    if odd := next((path for path in paths if not SHARD.fullmatch(path.name)), None):
        raise UserError(f"{odd}: the format lightningdit has latents_rankRR_shardSSS{ENDING} alone; move it away")
    _check_numbers(request.path, paths)
    shards = _shards(request, paths, LATENTS)
    if lost := next((shard for shard in shards if not {FLIPPED, LABELS} <= shard.names), None):
        raise UserError(f"{lost.path}: has no {', '.join(sorted({FLIPPED, LABELS} - lost.names))}; the format lightningdit has them")
    scale, shift = request.scale, request.shift
    notes = []
    if scale is None or shift is None:
        request.without("scale", "shift")
        scale, shift = _stats(request.path / STATS, shards[0].shape[0])
    else:
        notes = [f"--scale and --shift are taken; {STATS} is not read"]
    facts = Facts("lightningdit", "sample", "stored", scale, shift, False, (-1.0, 1.0), "its VA-VAE unless another was configured")
    return _source(request, shards, facts, "samples", LATENTS, notes)


def open_tensors(request: LatentRequest) -> LatentSource:
    paths = sorted(request.path.glob(f"*{ENDING}")) if request.path.is_dir() else [request.path]
    if not paths:
        raise UserError(f"{request.path}: no {ENDING} in it")
    key = request.key or _key(paths[0])
    shards = _shards(request, paths, key)
    has_flips = [FLIPPED in shard.names and key == LATENTS for shard in shards]
    if any(has_flips) and not all(has_flips):
        raise UserError(f"{shards[has_flips.index(False)].path}: has no {FLIPPED}, but other shards have; all or none must")
    facts = stated_facts(request, "stored" if has_flips[0] else "none")
    return _source(request, shards, facts, request.holds or "samples", key, [])


def _source(request: LatentRequest, shards: list[Shard], facts: Facts, holds: str, key: str, notes: list[str]) -> LatentSource:
    ends = np.cumsum([shard.rows for shard in shards])
    channels = latent_channels(shards[0].path, facts.holds, shards[0].shape[0])
    keys = [key, FLIPPED] if facts.flips == "stored" else [key]

    def name_of(index: int) -> str:
        number = int(np.searchsorted(ends, index, side="right"))
        return f"{shards[number].path}: row {index - (ends[number] - shards[number].rows)}"

    def batches(start: int) -> Iterator[Tensor]:
        for shard, end in zip(shards, ends.tolist()):
            begin = max(0, shard.rows - (end - start))
            if begin >= shard.rows:
                continue
            with _opened(shard.path) as file:
                slices = [file.get_slice(name) for name in keys]
                step = max(1, BATCH_BYTES // (len(keys) * shard.dtype.itemsize * int(np.prod(shard.shape))))
                for first in range(begin, shard.rows, step):
                    rows = [in_moments(part[first:first + step], holds) for part in slices]
                    yield torch.cat(rows, 1) if len(rows) > 1 else rows[0]

    if request.labels:
        values = label_array(request.labels)
    else:
        values = np.concatenate([_labels(shard) for shard in shards]) if all(LABELS in shard.names for shard in shards) else None
    labels, names = class_labels(request, request.labels or request.path, values, int(ends[-1]))
    what = f"{facts.format} {'folder' if request.path.is_dir() else 'file'} {request.path.resolve().name}"
    return LatentSource(what, facts, (channels, shards[0].shape[1], shards[0].shape[2]), labels, names, name_of, batches, notes)


def _opened(path: Path):
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a complete safetensors file: {first_line(error)}") from None


def _shards(request: LatentRequest, paths: list[Path], key: str) -> list[Shard]:
    """What each file holds, by its header. Raises UserError if they differ in dtype or shape."""
    shards: list[Shard] = []
    for path in paths:
        with _opened(path) as file:
            names = frozenset(file.keys())
            if key not in names:
                raise UserError(f"{path}: has no '{key}'; it has {', '.join(sorted(names)) or 'nothing'}")
            found = {name: file.get_slice(name) for name in names & {key, FLIPPED}}
            shape, dtype = tuple(found[key].get_shape()), found[key].get_dtype()
            if dtype not in FLOATS or len(shape) != 4 or not all(shape):
                raise UserError(f"{path}: '{key}' is {shown(dtype, shape)}; floats of N x channels x height x width are needed")
            for name, part in found.items():
                if (tuple(part.get_shape()), part.get_dtype()) != (shape, dtype):
                    raise UserError(f"{path}: '{name}' is {shown(part.get_dtype(), part.get_shape())}, but '{key}' {shown(dtype, shape)}")
        shards.append(Shard(path, shape[0], FLOATS[dtype], shape[1:], names))
        one_kind(str(shards[0].path), (shards[0].dtype, shards[0].shape), str(path), (shards[-1].dtype, shards[-1].shape))
    return shards


def _key(path: Path) -> str:
    with _opened(path) as file:
        names = sorted(file.keys())
        four = [name for name in names if len(file.get_slice(name).get_shape()) == 4]
    if LATENTS in names or len(four) != 1:
        if LATENTS not in names:
            raise UserError(f"{path}: which tensor holds the latents is not clear; name it with --key: {', '.join(names) or 'it is empty'}")
        return LATENTS
    return four[0]


def _labels(shard: Shard) -> np.ndarray:
    with _opened(shard.path) as file:
        labels = file.get_tensor(LABELS)
    if tuple(labels.shape) not in ((shard.rows,), (shard.rows, 1)) or labels.is_floating_point():
        raise UserError(f"{shard.path}: '{LABELS}' is {shown(labels.dtype, labels.shape)}; one integer for each of {shard.rows:,} "
                        "latents is needed")
    return labels.reshape(-1).numpy()


def _check_numbers(folder: Path, paths: list[Path]) -> None:
    """Raises UserError if a shard in the sequence is missing."""
    numbers: dict[str, list[int]] = {}
    for path in paths:
        rank, shard = SHARD.fullmatch(path.name).groups()
        numbers.setdefault(rank, []).append(int(shard))
    for rank, shards in numbers.items():
        if (lost := _gap(shards)) is not None:
            raise UserError(f"{folder}: latents_rank{rank}_shard{lost:03d}{ENDING} is missing; rank {rank} has shards to {max(shards)}")
    if (lost := _gap(list(map(int, numbers)))) is not None:
        raise UserError(f"{folder}: no shard of rank {lost:02d} is there, but of rank {max(numbers)}")


def _gap(numbers: list[int]) -> int | None:
    """The first missing number of 0, 1, ..."""
    return next((place for place, number in enumerate(sorted(numbers)) if place != number), None)


def _stats(path: Path, channels: int) -> tuple[list[float], list[float]]:
    """Scale and shift, from the mean and std of each channel. Nothing but tensors is unpickled."""
    if not path.exists():
        raise UserError(f"{path}: no such file; it holds the mean and std that a model sees the latents with; give --scale and --shift in "
                        "its place, as 0.18215 and 0")
    try:
        with warnings.catch_warnings():                                        # torch warns about other pickles; the error is enough
            warnings.simplefilter("ignore")
            values = torch.load(path, map_location="cpu", weights_only=True)
        mean, std = (values[name].double().reshape(-1).tolist() for name in ("mean", "std"))
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not the tensors mean and std alone: {first_line(error)}") from None
    if len(mean) != channels or len(std) != channels or not all(np.isfinite(mean)) or not min(std) > 0 or not all(np.isfinite(std)):
        raise UserError(f"{path}: mean and std must be {channels} numbers, those of std above 0; it holds {mean[:8]} and {std[:8]}")
    return [1 / one for one in std], mean
