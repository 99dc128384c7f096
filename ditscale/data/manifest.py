"""The manifest next to a .beton file (``train.json`` next to ``train.beton``): its content and its source."""

import functools
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from ditscale.digest import new_digest
from ditscale.errors import UserError, first_line
from ditscale.formats import MANIFEST, NewerFormat, check_format, stamped
from ditscale.rundir import write_json
from ditscale.section import in_words
from ditscale.writing import writing

if TYPE_CHECKING:
    import numpy as np

    from ditscale.data.beton import BetonFile

MOST_CLASSES = 1 << 20                                                         # of any data set; a count of each is held in memory

Numbers = float | list[float]                                                   # one, or one per channel

# What encoded the latents. Only imported latents have the last five; without them latents are as ``data encode`` writes them.
Encoder = TypedDict("Encoder", {
    "class": str, "weights_sha256": str, "bits": str, "scaling_factor": Numbers, "shift_factor": Numbers, "has_std": bool,
    "format": NotRequired[str],                                                 # the format's name in ``latent_sources``
    "flips": NotRequired[str],                                                  # stored | none | random: see ``latent_sources.base.Facts``
    "applied": NotRequired[bool],                                               # the numbers have been through shift and scale already
    "pixel_range": NotRequired[list[float]],                                    # of the images that went in and that come out
    "made_by": NotRequired[str]})                                               # in words; weights_sha256 is "" if it is not known


class Encoded(TypedDict):
    """Of the manifest of what was encoded: what is read of it."""

    name: str
    split: str
    content_blake2b: str


@dataclass(frozen=True)
class Manifest:
    """The content of one .beton file. Fields with a default came later: a file built before them has the default."""

    name: str                                                                  # of the data set
    split: str                                                                 # train, heldout, ...; "all": no splits
    samples: int
    shape: list[int]                                                           # of an image: channels, height, width
    classes: int
    class_counts: list[int]                                                    # samples of class 0, 1, ...
    source: str                                                                # in words, and how the split was drawn
    source_blake2b: str                                                         # of the source, before any change; imported latents: as stored
    content_blake2b: str                                                        # of this split as stored, by any writer
    writer: str                                                                # ffcv | numpy
    ditscale_version: str
    kind: str = "pixels"                                                       # pixels | latents
    crop: str = "none"                                                         # the rule in words, as "adm 256"
    encoder: Encoder | None = None                                             # latents: what made them
    handled: dict[str, int] = field(default_factory=dict)                      # images that were converted, by reason
    skipped: list[dict[str, str]] = field(default_factory=list)                # left out: {"name": ..., "reason": ...}
    class_names: list[str] | None = None                                       # of label 0, 1, ...; None: not known
    pixels: Encoded | None = None                                                # latents: the manifest of what was encoded


def content_blake2b(images: "np.ndarray", labels: "np.ndarray") -> str:
    """Hash of the images' bytes, then of the labels as little-endian int64."""
    import numpy as np  # slow to import, and commands read manifests of which they hash nothing

    digest = new_digest(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def stored_blake2b(file: "BetonFile", images: str = "image", batch_bytes: int = 1 << 26) -> str:
    """``content_blake2b`` of what a file holds, read in pieces, as a file may be larger than memory."""
    import numpy as np

    digest, step = new_digest(), max(1, batch_bytes // max(file.fields[images].page_bytes, 1))
    for first in range(0, file.num_samples, step):
        digest.update(file.read(images, np.arange(first, min(first + step, file.num_samples))).data)
    digest.update(file.read("label", np.arange(file.num_samples)).data)
    return digest.hexdigest()


def manifest_path(beton_path) -> Path:
    return Path(beton_path).with_suffix(".json")


def write_manifest(beton_path, manifest: Manifest) -> None:
    with writing(manifest_path(beton_path)):
        write_json(manifest_path(beton_path), stamped(MANIFEST, asdict(manifest), _version(manifest)))


def _version(manifest: Manifest) -> int:
    """1 if ditscale 0.2.0 reads it correctly: pixels, and latents of mean and std with one scale and shift, both ways, not yet applied."""
    encoder = manifest.encoder
    is_first = encoder is None or (encoder["has_std"] and "format" not in encoder and
                                   not isinstance(encoder["scaling_factor"], list) and not isinstance(encoder["shift_factor"], list))
    return 1 if is_first else 2


def manifest_if_any(beton_path) -> Manifest | None:
    """The manifest, None if it is missing or damaged. Raises NewerFormat if a later ditscale wrote it."""
    try:
        return read_manifest(beton_path)
    except NewerFormat:
        raise
    except UserError:
        return None


@functools.cache                                                               # takes longer to make than a manifest to read
def _schema() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def unique_images(manifest) -> int | None:
    """The images of a data set by its manifest's file, without stored flips; None if the file is missing or damaged.

    Only this number is read: tables of thousands of runs ask for it.
    """
    try:
        return _samples(Path(manifest).read_bytes())
    except OSError:
        return None


@functools.lru_cache(maxsize=64)
def _samples(content: bytes) -> int | None:
    try:
        samples = json.loads(content)["samples"]
    except (ValueError, TypeError, KeyError):
        return None
    return samples if type(samples) is int and samples > 0 else None


def read_manifest(beton_path) -> Manifest:
    """The manifest of a .beton file.

    Raises:
        UserError: it is missing or damaged, or a later ditscale wrote it.
    """
    path = manifest_path(beton_path)
    try:
        values = json.loads(path.read_bytes())
        check_format(MANIFEST, values, path)
        known = {f.name for f in fields(Manifest)} & values.keys()
        required = {f.name for f in fields(Manifest) if f.default is MISSING and f.default_factory is MISSING}
        if not required <= known:
            raise UserError(f"{path}: has no {', '.join(sorted(required - known))}: it is damaged, or was built by another version of "
                            f"ditscale ({values.get('ditscale_version', 'not said')}); build the data again")
        _schema().validate_json(json.dumps({name: values[name] for name in known}), strict=True)
        if not 1 <= values["classes"] <= MOST_CLASSES:
            raise ValueError(f"classes is {values['classes']}; 1 to {MOST_CLASSES:,} can be")
        return Manifest(**{name: values[name] for name in known})
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; build the data again") from None
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {in_words(error)}; build the data again") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged: {first_line(error)}; build the data again") from None
