"""The interface of every latent format: known facts, labels, and the numbers in batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ditscale.data.sources.base import Request
from ditscale.data.sources.classes import number_classes
from ditscale.errors import UserError, first_line

Numbers = float | list[float]                                                  # one, or one per channel
PIXEL_RANGES = {"-1..1": (-1.0, 1.0), "0..1": (0.0, 1.0)}                      # as --pixel-range names them
HOLDS = ("samples", "mean-std", "mean-logvar")
BATCH_BYTES = 2 << 20                                                          # approximately, of a batch as read: it stays in the processor's cache
NOT_KNOWN = "an autoencoder that is not known"
STABLE_DIFFUSION = 0.18215                                                     # the scale of its latents


@dataclass(frozen=True)
class Facts:
    """Known facts about latents. A model sees (latent - shift) * scale, where ``latent`` is the encoder's own.

    Attributes:
        holds: the mean and std of each image, or one sample of that distribution.
        flips: "stored": also of each image's mirror image; "none"; "random": some images were mirrored before they were encoded.
        applied: shift and scale are already applied to the numbers.
        pixel_range: of the encoder's input images, and so of its decoder's output.
        made_by: the autoencoder that the format's own script uses, for messages.
    """

    format: str
    holds: Literal["moments", "sample"]
    flips: Literal["stored", "none", "random"]
    scale: Numbers
    shift: Numbers
    applied: bool
    pixel_range: tuple[float, float]
    made_by: str = NOT_KNOWN


@dataclass(frozen=True)
class LatentRequest(Request):
    """The user's options. None: the format decides."""

    split: str | None = None
    scratch: Path = Path()
    format: str | None = None
    holds: str | None = None                                                   # of HOLDS
    scale: Numbers | None = None
    shift: Numbers | None = None
    applied: bool | None = None
    pixel_range: str | None = None                                             # of PIXEL_RANGES
    count: int | None = None                                                   # images that there should be
    key: str | None = None                                                     # the tensor or column of latents

    def without(self, *names: str) -> None:
        """Raises UserError for an option that the format itself determines."""
        for name in names:
            if getattr(self, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: the format {self.format} determines that; leave it out")


@dataclass(frozen=True)
class LatentSource:
    """Latents in a fixed order, the same on every machine. Latent i has class ``labels[i]``."""

    words: str                                                                 # for the manifest, without the machine's paths
    facts: Facts
    shape: tuple[int, int, int]                                                # c, h, w
    labels: np.ndarray                                                         # int64
    class_names: list[str] | None
    name_of: Callable[[int], str]                                              # of latent i, for messages
    batches: Callable[[int], Iterator[Tensor]]                                 # from latent i on: (n, flips, moments, c, h, w), as stored
    notes: list[str] = field(default_factory=list)                             # notes for the user
    check_sums: Callable[[np.ndarray], None] | None = None                     # checks the CRC-32 of each latent before the file gets its name


def class_labels(request: LatentRequest, where, values, count: int) -> tuple[np.ndarray, list[str] | None]:
    """Labels int64 (count,) and the classes' names; zeros with ``--unlabeled``.

    Raises:
        UserError: they are not one class for each of ``count`` latents, or there are none and ``--unlabeled`` was not given.
    """
    if request.unlabeled:
        return np.zeros(count, np.int64), None
    if values is None:
        raise UserError(f"{where}: holds no labels; give --labels FILE, or --unlabeled for unconditional training")
    labels = np.asarray(values)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise UserError(f"{where}: labels of shape {labels.shape} for {count:,} latent{'s' * (count != 1)}; one class for each is needed")
    return number_classes(request, where, labels, count)


def label_array(path: Path) -> np.ndarray:
    """The array in the ``--labels`` file. Raises UserError if it is not an .npy of numbers."""
    if path.suffix != ".npy":
        raise UserError(f"--labels {path}: labels for arrays are an .npy file of integers")
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"--labels {path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--labels {path}: not an array of numbers: {first_line(error)}") from None


def latent_channels(where, holds: str, channels: int) -> int:
    """Channels of one latent, from the stored channels: the std's follow the mean's."""
    if holds == "moments" and channels % 2:
        raise UserError(f"{where}: has {channels} channels, not a mean and as many channels of its std; are these samples?")
    return channels // 2 if holds == "moments" else channels


def stated_facts(request: LatentRequest, flips: Literal["stored", "none"]) -> Facts:
    """Facts from the options, for a format that only holds numbers.

    Raises:
        UserError: one of them is missing.
    """
    needed: dict[str, Any] = {"--holds": request.holds, "--scale": request.scale, "--shift": request.shift,
                              "--applied or --not-applied": request.applied}
    if missing := [name for name, value in needed.items() if value is None]:
        raise UserError(f"{request.path}: the format {request.format} does not say what its numbers are; give {', '.join(missing)}: "
                        f"--holds {'|'.join(HOLDS)}, a model sees (latent - shift) x scale (Stable Diffusion: --scale 0.18215 "
                        "--shift 0), --applied where the numbers have been through that already")
    assert request.format and request.scale is not None and request.shift is not None and request.applied is not None
    return Facts(request.format, "sample" if request.holds == "samples" else "moments", flips, request.scale, request.shift,
                 request.applied, PIXEL_RANGES[request.pixel_range or "-1..1"])


def one_kind(first: str, kind, name: str, found) -> None:
    """Raises UserError if ``found``, the dtype and shape of a later file or row, is not that of the first."""
    if found != kind:
        raise UserError(f"{name}: holds {shown(*found)}, but {first} holds {shown(*kind)}; latents of one kind are needed")


def shown(dtype, shape) -> str:
    return f"{str(dtype).removeprefix('torch.')} {' x '.join(map(str, shape)) or 'alone'}"


def in_moments(latents: Tensor, holds: str | None) -> Tensor:
    """Stored rows (n, channels, h, w) as (n, 1, moments, c, h, w); a log variance becomes a std, as in diffusers."""
    if holds == "samples":
        return latents[:, None, None]
    moments = latents.unflatten(1, (2, -1))
    if holds == "mean-logvar":
        moments = moments.float()
        moments[:, 1] = (moments[:, 1].clamp(-30, 20) / 2).exp()
    return moments[:, None]
