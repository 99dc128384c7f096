"""Other projects' latents: one module per format, listed here. ``open_latents`` reads the named format, or the only one that fits."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ditscale.data.latent_sources import fast_dit, mds, mean_std, numpy_arrays, tensors
from ditscale.data.latent_sources.base import LatentRequest, LatentSource
from ditscale.errors import UserError, count, did_you_mean


class Format(NamedTuple):
    words: str
    could_be: Callable[[Path], bool]                                           # by names alone
    open: Callable[[LatentRequest], LatentSource]
    endings: tuple[str, ...] = ()                                              # of files that it may be; else it is a folder


FORMATS = {
    "edm2": Format("EDM2's dataset_tool.py encode, a zip or a folder", mean_std.could_be_edm2, mean_std.open_edm2, (".zip",)),
    "repa": Format("REPA's vae-sd/, or the folder around it", mean_std.could_be_repa, mean_std.open_repa, (".zip",)),
    "fast-dit": Format("fast-DiT's *_features/ and *_labels/", fast_dit.could_be, fast_dit.open_fast_dit),
    "lightningdit": Format("LightningDiT's latents_rankRR_shardSSS.safetensors", tensors.could_be_lightningdit, tensors.open_lightningdit),
    "mds": Format("MosaicML Streaming's shards with an ndarray column", mds.could_be, mds.open_mds),
    "safetensors": Format("a file or a folder of shards (N, C, H, W)", tensors.could_be_tensors, tensors.open_tensors, (".safetensors",)),
    "numpy": Format("an .npy, an .npz or a folder of .npy (N, C, H, W)", numpy_arrays.could_be, numpy_arrays.open_arrays, (".npy", ".npz")),
}


def guessed_format(path: Path) -> str:
    """The one format that the files' names allow.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [name for name, form in FORMATS.items() if form.could_be(path)]
    if found == ["edm2", "repa"]:
        raise UserError(f"{path}: EDM2's latents and REPA's look the same but were encoded from other pixels; give --format edm2 for those "
                        "of EDM2's dataset_tool.py (pixels in [0, 1]), --format repa for those of REPA's (pixels in [-1, 1])")
    if len(found) != 1:
        forms = "; ".join(f"{name}: {form.words}" for name, form in FORMATS.items() if not found or name in found)
        raise UserError(f"{path}: {'may be of several formats' if found else 'no latents of a known format'}; --format names one: {forms}")
    return found[0]


def open_latents(request: LatentRequest) -> LatentSource:
    """Read names, labels and kinds of ``request.path``, and of its numbers only the first.

    Raises:
        UserError: it is not of ``request.format``, is damaged, or is ambiguous.
    """
    if request.format not in FORMATS:
        raise UserError(f"--format {request.format}: is none of {', '.join(FORMATS)}{did_you_mean(str(request.format), FORMATS)}")
    if request.unlabeled and request.labels is not None:
        raise UserError(f"--labels {request.labels} with --unlabeled: give one of the two")
    form = FORMATS[request.format]
    if not request.path.is_dir() and request.path.suffix.lower() not in form.endings:
        raise UserError(f"{request.path}: is no source of the format {request.format}: {form.words}")
    try:
        source = form.open(request)
    except OSError as error:
        raise UserError(f"{error.filename or request.path}: cannot be read: {error.strerror or error}") from None
    if request.count is not None and request.count != len(source.labels):
        raise UserError(f"{request.path}: holds {count(len(source.labels), 'latent')}, not the {request.count:,} of --count")
    return source
