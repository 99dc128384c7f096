"""Encodes pixels to latents on any number of ranks: the file is bit-identical for any number, and a stopped run continues.

Images are encoded in micro batches by their index in the file, so the images of one forward never depend on the number of ranks. A *part*
is some micro batches; rank r of n encodes parts r, r + n, ... into a folder next to the result, and rank 0 concatenates them.
"""

import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

import ditscale
from ditscale.data.beton import BetonFile, FieldSpec, stream_beton
from ditscale.data.kinds import image_shape, kind_of
from ditscale.data.latents import to_bits
from ditscale.data.manifest import Encoded, Encoder, Manifest, read_manifest, stored_blake2b, write_manifest
from ditscale.data.vae import Vae
from ditscale.errors import UserError, count
from ditscale.formats import NewerFormat
from ditscale.ranks import join_ranks
from ditscale.rundir import write_json
from ditscale.writing import writing, written_whole

PART_IMAGES = 1024                                                             # approximately; a part is a whole number of micro batches
REPORT_SECONDS = 10.0


def encode(source, target, vae: Vae, *, bits: str = "fp16", batch: int = 32, say=print) -> Manifest:
    """Write ``target``, the latents of the pixel file ``source``, and its manifest; does nothing if both exist.

    Every rank that the launcher started calls it; only rank 0 prints. The parts are in ``<target>.parts`` until the end.

    Raises:
        UserError: ``source`` is not pixels that this encoder takes, ``target`` or its parts exist and are something else, or
            cannot be written.
    """
    (file, pixels), target = check_source(source), Path(target)
    encoder = cast(Encoder, {**vae.description, "bits": bits, "batch": batch})
    wanted = _manifest(pixels, list(vae.latent_shape(image_shape(file))), encoder)
    if _stands(target, wanted):
        say(f"{target}: already there")
        return read_manifest(target)
    parts = Parts(target.with_name(f"{target.name}.parts"), file.num_samples, batch)
    with join_ranks() as ranks:
        if ranks.is_main:
            parts.open({"encoder": encoder, "pixels": wanted.pixels["content_blake2b"], "samples": file.num_samples,
                        **({} if vae.has_std else {"stored": "one sample"})})  # ditscale 0.2.0 stored zeros with it
        ranks.wait()
        _encode_parts(file, vae, bits, parts, range(ranks.rank, parts.count, ranks.size),
                      say if ranks.is_main else lambda line: None)
        ranks.wait()
        if not ranks.is_main:
            return wanted
        specs = {"moments": FieldSpec(np.dtype("<i2"), (2, 1 + vae.has_std, *wanted.shape)), "label": FieldSpec(np.dtype("<i8"), ())}
        stored = ({"moments": np.load(parts.path(part), mmap_mode="r")} for part in range(parts.count))
        stream_beton(target, specs, parts.samples, {"label": file.read("label", np.arange(parts.samples))}, stored)
        manifest = replace(wanted, content_blake2b=stored_blake2b(BetonFile(target), "moments"))
        write_manifest(target, manifest)
        shutil.rmtree(parts.folder)
    say(f"{target}: {count(manifest.samples, 'image as a latent', 'images as latents')} of {' x '.join(map(str, manifest.shape))}, {bits}")
    return manifest


def check_source(path) -> tuple[BetonFile, Manifest]:
    """A file of pixels and its manifest.

    Raises:
        UserError: it does not exist, holds something else, or has no manifest.
    """
    file = BetonFile(path)
    if kind_of(file) != "pixels":
        raise UserError(f"{path}: holds latents already; give the file of pixels")
    return file, read_manifest(path)


class Parts:
    """The folder of encoded parts, ``part-000000.npy`` and so on. Each is complete or absent."""

    def __init__(self, folder: Path, samples: int, batch: int):
        self.folder, self.samples, self.batch = folder, samples, batch
        self.images = max(1, PART_IMAGES // batch) * batch                     # of each part but the last
        self.count = -(-samples // self.images)

    def open(self, plan: dict) -> None:
        """Make the folder, or continue with it. Raises UserError if it belongs to another plan, or cannot be written."""
        note = self.folder / "plan.json"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not note.exists():
                write_json(note, plan)
            stands = json.loads(note.read_text())
        differs = sorted(key for key in plan["encoder"] if stands["encoder"].get(key) != plan["encoder"][key])
        if stands != plan:
            raise UserError(f"{self.folder}: holds parts of another encoding (other {', '.join(differs) or 'pixels'}); go on "
                            "with that one, or delete the folder")

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.npy"

    def images_done(self) -> int:
        return min(self.samples, self.images * sum(name.startswith("part-") for name in os.listdir(self.folder)))


def _encode_parts(file: BetonFile, vae: Vae, bits: str, parts: Parts, mine: range, say) -> None:
    """Encode this rank's missing parts."""
    at_start, started, said = parts.images_done(), time.perf_counter(), 0.0
    if at_start:
        say(f"{parts.folder}: continuing from {at_start} of {count(parts.samples, 'image')}")
    for part in mine:
        if parts.path(part).exists():
            continue
        first, last = part * parts.images, min((part + 1) * parts.images, parts.samples)
        moments = [_both_ways(vae, file.read("image", np.arange(at, min(at + parts.batch, last))))
                   for at in range(first, last, parts.batch)]
        with written_whole(parts.path(part)) as aside, open(aside, "wb") as out:
            np.save(out, to_bits(torch.cat(moments), bits))
        elapsed, done = time.perf_counter() - started, parts.images_done()
        if elapsed - said > REPORT_SECONDS or part == mine[-1]:
            said = elapsed
            say(f"{done} of {count(parts.samples, 'image')} encoded, {(done - at_start) / elapsed:.1f} images/s")


def _both_ways(vae: Vae, images: np.ndarray) -> torch.Tensor:
    """Moments (B, 2, 2 or 1, c, h, w) of the images and of their horizontal flips."""
    flipped = np.ascontiguousarray(images[..., ::-1])
    return torch.stack([vae.moments(images), vae.moments(flipped)], dim=1)


def _manifest(pixels: Manifest, shape: list[int], encoder: Encoder) -> Manifest:
    """The manifest of the latents; the hash of their content is not known yet."""
    return replace(pixels, kind="latents", shape=shape, encoder=encoder, pixels=cast(Encoded, asdict(pixels)), content_blake2b="",
                   writer="numpy", handled={}, skipped=[], ditscale_version=ditscale.__version__)


def _stands(target: Path, wanted: Manifest) -> bool:
    """Whether the complete result exists. Raises UserError if something else has its name."""
    if not target.exists():
        return False
    try:
        stored = read_manifest(target)
        if (stored.encoder, stored.pixels) == (wanted.encoder, wanted.pixels):
            return BetonFile(target).num_samples == wanted.samples
    except NewerFormat:
        raise
    except UserError:
        if target.with_name(f"{target.name}.parts").is_dir():                  # stopped between the file and its manifest
            return False
    raise UserError(f"{target}: exists already and is something else; give another name, or delete it")
