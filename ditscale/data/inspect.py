"""Describes a .beton file (fields, manifest, classes) and verifies it against its manifest."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from ditscale.data.beton import BetonFile
from ditscale.data.kinds import FIELDS, kind_of
from ditscale.data.manifest import Manifest, manifest_path, read_manifest, stored_blake2b
from ditscale.errors import UserError, count
from ditscale.writing import make_parents, writing

BAR, MOST_CLASSES = 40, 40                                                     # characters of the longest bar; lines
GRID_ROWS, GRID_COLUMNS, GRID_GAP = 8, 8, 2                                    # the gap is in pixels


def describe(path) -> list[str]:
    """Lines of text about a file and its manifest; reads no images."""
    file = BetonFile(path)
    lines = [f"{path}: {count(file.num_samples, 'sample')}, {Path(path).stat().st_size / 2**20:,.1f} MiB"]
    for name, spec in file.fields.items():
        kind = "integer" if spec.is_int else f"{spec.dtype} {' x '.join(map(str, spec.shape))}"
        lines.append(f"  field '{name}': {kind}")
    if not manifest_path(path).exists():
        return [*lines, f"no manifest ({manifest_path(path)}): the data's origin is not known", *_histogram(file, None)]
    manifest = read_manifest(path)
    lines.append(f"manifest {manifest_path(path)}")
    shown = {name: value for name, value in asdict(manifest).items()
             if name not in ("class_counts", "class_names", "pixels", "encoder")}
    if manifest.encoder:
        shown |= {f"encoder {name}": value for name, value in manifest.encoder.items()}
    lines += [f"  {name}: {_short(value)}" for name, value in shown.items() if value not in (None, {}, [])]
    if manifest.pixels:
        lines.append(f"  encoded from: {manifest.pixels['name']} {manifest.pixels['split']}, content "
                     f"{manifest.pixels['content_blake2b'][:12]}")
    return [*lines, *_histogram(file, manifest)]


def verify(path) -> str:
    """Read all of a file and compare it with its manifest; the result in one line.

    Raises:
        UserError: there is no manifest, or the content is not what it says.
    """
    file, manifest = BetonFile(path), read_manifest(path)
    for name, stored in (("samples", file.num_samples), ("class_counts", _counts(file, manifest.classes).tolist())):
        if getattr(manifest, name) != stored:
            raise UserError(f"{path}: damaged: its {name} are {_short(stored)}, but {manifest_path(path)} says "
                            f"{_short(getattr(manifest, name))}; build it again")
    content = stored_blake2b(file, FIELDS[kind_of(file)])
    if content != manifest.content_blake2b:
        raise UserError(f"{path}: damaged: its content hashes to {content[:12]}, but {manifest_path(path)} says "
                        f"{manifest.content_blake2b[:12]}; build it again")
    return f"verified: {count(file.num_samples, 'sample is', 'samples are')} what the manifest says"


def save_grid(path, out, vae=None) -> str:
    """A PNG of 64 images, evenly spread over the file; latents need ``vae``, the ``Vae`` that made them.

    Raises:
        UserError: the images cannot be shown, or ``out`` cannot be written.
    """
    from PIL import Image

    file = BetonFile(path)
    chosen = np.unique(np.linspace(0, file.num_samples - 1, GRID_ROWS * GRID_COLUMNS).round().astype(np.int64))
    images = file.read("image", chosen) if kind_of(file) == "pixels" else _decoded(file, chosen, vae)
    if images.shape[1] not in (1, 3):
        raise UserError(f"{path}: images of {images.shape[1]} channels make no picture; 1 or 3 would")
    if Path(out).suffix.lower() != ".png":
        raise UserError(f"--grid {out}: give a name that ends in .png")
    rows = -(-len(images) // GRID_COLUMNS)
    height, width = (side + GRID_GAP for side in images.shape[2:])
    sheet = np.full((rows * height, GRID_COLUMNS * width, images.shape[1]), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // GRID_COLUMNS * height, number % GRID_COLUMNS * width
        sheet[top:top + height - GRID_GAP, left:left + width - GRID_GAP] = image.transpose(1, 2, 0)
    make_parents(out)
    with writing(f"--grid {out}"):
        Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet).save(out)
    return f"{out}: {count(len(images), 'image')}, evenly spread over the file"


def _decoded(file: BetonFile, chosen: np.ndarray, vae) -> np.ndarray:
    """Images uint8 (N, C, H, W) from the stored means."""
    import torch

    from ditscale.data.latents import from_bits, signed_pixels
    from ditscale.data.prepare import own_latents

    encoder = read_manifest(file.path).encoder
    if vae is None:
        raise UserError(f"{file.path}: holds latents; --grid needs --vae, the {encoder['class']} that made them")
    if encoder["weights_sha256"] not in ("", vae.description["weights_sha256"]):
        raise UserError(f"--vae: its weights are not those that made {file.path} (sha256 {encoder['weights_sha256'][:12]})")
    means = from_bits(torch.from_numpy(file.read("moments", chosen)[:, 0, 0]), encoder["bits"])
    return (127.5 * signed_pixels(vae.decode(own_latents(means, encoder)), encoder) + 128).clamp(0, 255).to(torch.uint8).numpy()


def _histogram(file: BetonFile, manifest: Manifest | None) -> list[str]:
    """A bar per class, by name if known; only the extremes if there are many classes."""
    if "label" not in file.fields or not file.fields["label"].is_int:
        return []
    counts = _counts(file, manifest.classes if manifest else 0)
    names = (manifest.class_names if manifest else None) or [str(label) for label in range(len(counts))]
    lines = [f"{count(len(counts), 'class', 'classes')}, {counts.min():,} to {count(counts.max(), 'sample')} each"]
    width = max(map(len, names[:MOST_CLASSES]))
    lines += [f"  {name:>{width}} {'#' * round(BAR * count / max(counts.max(), 1))} {count:,}"
              for name, count in list(zip(names, counts.tolist()))[:MOST_CLASSES]]
    return lines + ([f"  ... and {len(counts) - MOST_CLASSES} more"] if len(counts) > MOST_CLASSES else [])


def _counts(file: BetonFile, classes: int) -> np.ndarray:
    """Samples of label 0, 1, ..."""
    labels = file.read("label", np.arange(file.num_samples))
    if labels.min() < 0 or labels.max() >= max(classes, 1 << 20):
        raise UserError(f"{file.path}: has labels from {labels.min()} to {labels.max()}, which are not classes")
    return np.bincount(labels, minlength=classes)


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:150]} ... ({len(value)})"
