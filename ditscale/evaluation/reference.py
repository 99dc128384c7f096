"""The reference of a score: its statistics, read from a file or computed from images.

::

    mu, sigma          mean (D,) and covariance (D, D) of the pooled features: pytorch-fid, clean-fid, EDM, ADM
    mu_s, sigma_s      the same of spatial features, for sFID: ADM
    arr_0              images, for precision and recall: ADM. With mu, they do not affect the distance
    n, extractor, extractor_sha256, resize, images_sha256        origin: written by ditscale

EDM2's .pkl holds ``{"num_images": N, "fid": {"mu", "sigma"}, "fd_dinov2": {...}}``.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditscale.digest import file_sha256
from ditscale.errors import UserError
from ditscale.evaluation.extractors import Extractor
from ditscale.evaluation.images import ImageSet, open_images
from ditscale.evaluation.metrics.moments import Accumulator, Moments, covariance_problem
from ditscale.evaluation.metrics.names import metric_name
from ditscale.evaluation.pickled import read_plain_pickle
from ditscale.writing import written_whole

PICKLE = ".pkl"


@dataclass(frozen=True)
class Reference:
    """Statistics of a reference and where they come from; None: not known or absent."""

    moments: Moments
    spatial_moments: Moments | None
    samples: int | None                                                        # images behind the moments
    sha256: str                                                                # of the statistics file, or of the images
    extractor: str | None
    extractor_sha256: str | None
    resize: str | None
    images: ImageSet | None                                                    # for precision, recall and KID


def load_reference(path, extractor: Extractor, *, advance=lambda images: None) -> Reference:
    """The reference under ``path``: statistics if it is a file that has them, else computed from its images.

    Args:
        advance: called with the number of images after each batch.

    Raises:
        UserError: it cannot be read, or its statistics come from other features.
    """
    if not Path(path).exists():
        raise UserError(f"reference_path {path}: no such file or folder; give another with reference_path=PATH")
    if is_statistics(path):
        reference = read_statistics(path, metric_name(extractor.name))
        check_features(path, reference, extractor)
        return reference
    return reference_of(open_images(path, channels=max(extractor.channels)), extractor, advance)


def reference_of(images: ImageSet, extractor: Extractor, advance=lambda images: None) -> Reference:
    """Statistics of the pooled and, if the network has them, of the spatial features of all images.

    Raises:
        UserError: there are fewer than two images.
    """
    if images.count < 2:
        raise UserError(f"{images.path}: holds 1 image; statistics need at least 2, better thousands")
    pooled = spatial = None
    for batch in images.batches(extractor.batch):
        features = extractor(torch.from_numpy(batch))
        pooled = _added(pooled, features.pooled)
        spatial = _added(spatial, features.spatial)
        advance(len(batch))
    return Reference(moments=pooled.moments(), spatial_moments=spatial.moments() if spatial else None, samples=images.count,
                     sha256=images.sha256, extractor=extractor.name, extractor_sha256=extractor.sha256, resize=extractor.resize, images=images)


def is_statistics(path) -> bool:
    """Whether the file is an .npz with ``mu``, or a .pkl; such statistics take precedence over images in it."""
    if Path(path).suffix.lower() == PICKLE and Path(path).is_file():
        return True
    if Path(path).suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "mu.npy" in archive.namelist()


def read_statistics(path, metric: str = "fid") -> Reference:
    """Statistics from a file of any of the tools above.

    Args:
        metric: chooses, in a file with statistics of several networks.

    Raises:
        UserError: the file is damaged, or its arrays do not fit together.
    """
    path = Path(path)
    if path.suffix.lower() == PICKLE:
        return _read_pickled(path, metric)
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if not name.startswith("arr_")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: no statistics can be read from it: {error}") from None
    samples = _count(path, arrays["n"]) if "n" in arrays else None
    moments = _moments(path, arrays, "mu", "sigma", samples)
    spatial = _moments(path, arrays, "mu_s", "sigma_s", samples) if "mu_s" in arrays else None
    with zipfile.ZipFile(path) as archive:
        images = open_images(path) if "arr_0.npy" in archive.namelist() else None
    words = {name: str(arrays[name]) if name in arrays else None for name in ("extractor", "extractor_sha256", "resize")}
    return Reference(moments=moments, spatial_moments=spatial, samples=samples, sha256=file_sha256(path), images=images, **words)


def _read_pickled(path: Path, metric: str) -> Reference:
    """EDM2's: the moments by metric."""
    values = read_plain_pickle(path)
    found = {key: value for key, value in values.items() if isinstance(value, dict)} if isinstance(values, dict) else {}
    if metric not in found:
        raise UserError(f"{path}: holds no statistics of {metric}; it has {', '.join(map(str, found)) or 'none in the form of EDM2'}")
    arrays = {name: value for name, value in found[metric].items() if isinstance(value, np.ndarray)}
    samples = _count(path, np.asarray(values["num_images"])) if isinstance(values.get("num_images"), (int, float)) else None
    return Reference(moments=_moments(path, arrays, "mu", "sigma", samples), spatial_moments=None, samples=samples, sha256=file_sha256(path),
                     images=None, extractor=None, extractor_sha256=None, resize=None)


def write_statistics(path, reference: Reference) -> None:
    """Write an .npz that ADM's evaluator and pytorch-fid read too. It is written completely or not at all."""
    arrays: dict[str, Any] = {"mu": reference.moments.mean, "sigma": reference.moments.covariance}
    if reference.spatial_moments is not None:
        arrays |= {"mu_s": reference.spatial_moments.mean, "sigma_s": reference.spatial_moments.covariance}
    words = {"n": reference.samples, "extractor": reference.extractor, "extractor_sha256": reference.extractor_sha256,
             "resize": reference.resize, "images_sha256": reference.sha256}
    with written_whole(path) as aside, open(aside, "wb") as file:
        arrays |= {name: np.array(value) for name, value in words.items() if value is not None}
        np.savez(file, **arrays)


def check_features(path, reference: Reference, extractor: Extractor) -> None:
    """Raises UserError if the statistics are of other features than the extractor's."""
    known = reference.extractor_sha256
    if known is not None and known != extractor.sha256:
        raise UserError(f"{path}: its statistics are of {reference.extractor} with weights {known}, but the feature network here "
                        f"is {extractor.name} with weights {extractor.sha256}; recompute them with `ditscale stats`")
    if extractor.dimensions is not None and reference.moments.dimensions != extractor.dimensions:
        raise UserError(f"{path}: its statistics have {reference.moments.dimensions} dimensions, but {extractor.name} has "
                        f"{extractor.dimensions}; recompute them with `ditscale stats`")


def _added(accumulator: Accumulator | None, features: torch.Tensor | None) -> Accumulator | None:
    """The accumulator with one more batch; created at the first."""
    if features is not None:
        accumulator = accumulator or Accumulator(features.shape[1])
        accumulator.add(features.cpu().numpy())
    return accumulator


def _moments(path: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str, count: int | None) -> Moments:
    missing = [name for name in (mean, covariance) if name not in arrays]
    if missing:
        raise UserError(f"{path}: no array {missing[0]} in it; it has {', '.join(arrays) or 'nothing'}")
    for name in (mean, covariance):
        if arrays[name].dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} is {arrays[name].dtype}; real numbers are needed")
    values = [arrays[name].astype(np.float64) for name in (mean, covariance)]
    if values[0].ndim != 1 or not values[0].size or values[1].shape != 2 * values[0].shape:
        raise UserError(f"{path}: {mean} has shape {values[0].shape} and {covariance} {values[1].shape}; (D,) and (D, D) are "
                        "needed")
    for name, value in zip((mean, covariance), values):
        if bad := int((~np.isfinite(value)).sum()):
            raise UserError(f"{path}: {bad} of the {value.size} numbers of {name} are not finite; recompute it with "
                            "`ditscale stats`")
    if problem := covariance_problem(values[1]):
        raise UserError(f"{path}: {covariance} is not a covariance: {problem}; recompute it with `ditscale stats`")
    return Moments(count, *values)


def _count(path: Path, value: np.ndarray) -> int:
    """The number of images behind the statistics."""
    if value.size != 1 or value.dtype.kind not in "iuf" or value.item() != int(value.item()):
        raise UserError(f"{path}: n, the number of images, is {str(value)[:40]}; one integer is needed")
    if value.item() < 2:
        raise UserError(f"{path}: made of {int(value.item())} image{'s' * (value.item() < 1)}; statistics need at least 2, better thousands")
    return int(value.item())
