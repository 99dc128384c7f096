"""Imports other projects' latents into a .beton file unchanged: not sampled, not scaled, and never all in memory.

One thread reads ahead and rounds to 16 bits, this one writes, a third hashes, a fourth flushes to the disk. A stopped import continues
where it stopped, as a build does: see ``begun``.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ditscale
from ditscale.data.ahead import Behind, read_ahead
from ditscale.data.begun import NOTED, Begun, finish
from ditscale.data.beton import BetonFile, FieldSpec, write_stream
from ditscale.data.build import check_paths, work_folder
from ditscale.data.latent_sources import guessed_format, open_latents
from ditscale.data.latent_sources.base import NOT_KNOWN, LatentRequest, LatentSource
from ditscale.data.latents import BITS
from ditscale.data.manifest import Encoder, Manifest, read_manifest, stored_blake2b, write_manifest
from ditscale.data.progress import Progress, outcome
from ditscale.digest import new_digest
from ditscale.errors import UserError, count
from ditscale.formats import NewerFormat
from ditscale.writing import writing

FLUSH_BYTES = 16 << 20                                                         # stored, between two calls that send what is written to the disk
flush_data = getattr(os, "fdatasync", os.fsync)                                 # macOS has no fdatasync
UNKNOWN = "autoencoder (not recorded)"                                         # instead of a class


@dataclass(frozen=True)
class ImportSummary:
    """The result at ``path``."""

    path: Path
    manifest: Manifest
    notes: list[str]
    seconds: float
    made: bool                                                                 # False: it already existed

    def __str__(self) -> str:
        m, encoder = self.manifest, self.manifest.encoder
        assert encoder is not None
        holds = "mean and std" if encoder["has_std"] else "one sample of each"
        flips = {"stored": "flips stored", "none": "no flips", "random": "a random flip in them"}[encoder["flips"]]
        low, high = encoder["pixel_range"]
        applied = "which is done already" if encoder["applied"] else "done when they are loaded"
        lines = [f"{self.path}: {count(m.samples, 'latent')} of {' x '.join(map(str, m.shape))}, {holds}, {flips}, {encoder['bits']}, "
                 f"{count(m.classes, 'class', 'classes')}, format {encoder['format']} "
                 f"({outcome(self.seconds, self.made)})",
                 f"a model sees (latent - {encoder['shift_factor']}) x {encoder['scaling_factor']}, {applied}",
                 f"the decoder gives pixels in [{low:g}, {high:g}]", *self.notes]
        if not encoder["weights_sha256"]:
            usual = "" if encoder["made_by"] == NOT_KNOWN else f" (the format's own script uses {encoder['made_by']})"
            lines.append(f"their autoencoder is not recorded{usual}; --vae NAME records it, and scoring then accepts no other")
        return "\n".join(lines)


def import_latents(path, out, *, bits: str = "fp16", load_vae=None, say=print, **options) -> ImportSummary:
    """Write ``out`` and its manifest. Does nothing if ``out`` is the complete result of the same import.

    Field 'moments' int16 (1 or 2, 1 or 2, c, h, w) = [image, flip if stored] x [mean, std] or [sample].

    Args:
        bits: fp16 or bf16, how numbers are stored.
        load_vae: gives the ``Vae`` that made the latents, to be recorded; None: not known. Called once the source is known to be usable.
        say: prints a line before the work starts.
        options: see ``latent_sources.base.LatentRequest``.

    Raises:
        UserError: the source cannot be used, ``out`` is something else, or cannot be written.
    """
    path, out, started = Path(path), Path(out), time.monotonic()
    check_paths(path, out)
    if options.get("format") is None:
        options["format"] = guessed_format(path)
        say(f"{path}: format {options['format']}, by its files' names")
    labels = options.pop("labels", None)
    source = open_latents(LatentRequest(path=path, labels=None if labels is None else Path(labels), **options))
    wanted = _manifest(path, source, _encoder(path, source, bits, load_vae and load_vae()))
    with work_folder(out, NOTED) as folder:
        made = not out.exists()
        manifest = _make(wanted, path, out, folder, source, say) if made else _same_import(wanted, out, source)
    return ImportSummary(out, manifest, source.notes, time.monotonic() - started, made)


def _encoder(source_path: Path, source: LatentSource, bits: str, vae) -> Encoder:
    """What the manifest says about their encoder. Raises UserError if ``vae`` has another number of channels."""
    facts = source.facts
    if source.shape[1] != source.shape[2]:
        raise UserError(f"{source_path}: latents of {' x '.join(map(str, source.shape))} (channels x height x width) are not square; an array of "
                        "N x H x W x C must be transposed to N x C x H x W first")
    known = {"class": UNKNOWN, "weights_sha256": ""} if vae is None else \
        {name: vae.description[name] for name in ("class", "config_sha256", "weights_sha256")}
    if vae is not None and vae.latent_channels != source.shape[0]:
        raise UserError(f"--vae: its latents have {vae.latent_channels} channels, but these have {source.shape[0]}")
    for name in ("scale", "shift"):
        values = getattr(facts, name)
        if isinstance(values, list) and len(values) not in (1, source.shape[0]):
            raise UserError(f"--{name}: {len(values)} numbers for {source.shape[0]} channels; give one number, or one per channel")
    return known | {                                                           # type: ignore[return-value]
        "bits": bits, "scaling_factor": facts.scale, "shift_factor": facts.shift, "has_std": facts.holds == "moments",
        "format": facts.format, "flips": facts.flips, "applied": facts.applied, "pixel_range": list(facts.pixel_range),
        "made_by": facts.made_by}


def _manifest(path: Path, source: LatentSource, encoder: Encoder) -> Manifest:
    """The manifest of an import; its two hashes are not known yet."""
    classes = len(source.class_names) if source.class_names else int(source.labels.max()) + 1
    return Manifest(
        name=path.resolve().name.split(".")[0], split="all", samples=len(source.labels), shape=list(source.shape), classes=classes,
        class_counts=np.bincount(source.labels, minlength=classes).tolist(), source=source.words, source_blake2b="", content_blake2b="",
        writer="numpy", ditscale_version=ditscale.__version__, kind="latents", crop="not known", encoder=encoder,
        class_names=source.class_names)


def _make(manifest: Manifest, path: Path, out: Path, folder: Path, source: LatentSource, say) -> Manifest:
    """Write ``out``. The manifest, with its hashes, is written just before it, so no file is without one."""
    encoder = manifest.encoder
    assert encoder is not None
    flips, numbers = 1 + (encoder["flips"] == "stored"), 1 + encoder["has_std"]
    specs = {"moments": FieldSpec(np.dtype("<i2"), (flips, numbers, *source.shape)), "label": FieldSpec(np.dtype("<i8"), ())}
    content, done = new_digest(), 0
    sums = np.empty(manifest.samples if source.check_sums else 0, np.uint32)
    with writing(out):
        begun = Begun(folder, _plan(manifest, path, source), specs, manifest.samples)
        if begun.rows:
            say(f"{folder}: continuing from {begun.rows:,} of {count(manifest.samples, 'latent')}")
        with begun.again() as (file, note), Behind() as behind, Behind() as disk, Progress("latents", manifest.samples, done=begun.rows) as progress:

            def batches():
                nonlocal done
                flushed = 0
                for stored in _stored(begun, source, encoder["bits"]):
                    behind.do(content.update, stored.data)
                    done += len(stored)
                    behind.do(note, done, content)
                    for row, latent in enumerate(stored if len(sums) else ()):
                        sums[done - len(stored) + row] = zlib.crc32(latent.data)
                    yield {"moments": stored}
                    if (done - flushed) * specs["moments"].page_bytes >= FLUSH_BYTES:
                        disk.do(flush_data, file.fileno())                  # overlaps with reading; otherwise the last fsync writes all of it
                        flushed = done
                    progress.advance(len(stored) if done > begun.rows else 0)

            write_stream(file, specs, manifest.samples, {"label": source.labels}, batches())
            behind.wait()
            disk.wait()
        if source.check_sums:
            source.check_sums(sums)
        content.update(source.labels.astype("<i8").data)
        manifest = replace(manifest, source_blake2b=content.hexdigest(), content_blake2b=content.hexdigest())
        write_manifest(out, manifest)
        finish(begun.new, out)
    return manifest


def _stored(begun: Begun, source: LatentSource, bits: str) -> Iterator[np.ndarray]:
    """All latents as they are stored, int16 (n, flips, moments, c, h, w): first those of the stopped attempt, then the source's."""
    yield from begun.batches()
    with closing(read_ahead(_rounded(source, bits, begun.rows))) as ahead:
        yield from ahead


def _rounded(source: LatentSource, bits: str, start: int) -> Iterator[np.ndarray]:
    done = start
    for batch in source.batches(start):
        yield _to_bits(batch, bits, source, done).numpy()
        done += len(batch)


def _plan(manifest: Manifest, path: Path, source: LatentSource) -> str:
    """A hash of the planned file and of the names, sizes and times of its source files, so that a stopped import of other files
    is not continued."""
    digest = hashlib.sha256(json.dumps(asdict(manifest), sort_keys=True).encode())
    digest.update(source.labels.astype("<i8").data)
    for name, stat in sorted(_stats(path)):
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stats(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    if not path.is_dir():
        yield "", path.stat()
        return
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(".")]        # such as this import's own, if OUT is in SOURCE
        for name in names:
            whole = os.path.join(folder, name)
            yield whole[len(str(path)):], os.stat(whole)


def _same_import(wanted: Manifest, out: Path, source: LatentSource) -> Manifest:
    """The manifest of ``out``. Raises UserError unless importing it again would give the same file."""
    try:
        there = read_manifest(out)
    except NewerFormat:
        raise
    except UserError:
        raise UserError(f"{out}: exists already and has no manifest; remove it or give another name") from None
    for name in ("kind", "samples", "shape", "encoder", "class_names", "class_counts"):
        one, other = getattr(there, name), getattr(wanted, name)
        if one != other:
            if name == "encoder" and one:
                name = next(key for key in other.keys() | one.keys() if one.get(key) != other.get(key))
                one, other = one.get(name), other.get(name)
            raise UserError(f"{out}: exists already and is something else: {name} {str(one)[:80]}, not {str(other)[:80]}; remove it or give "
                            "another name")
    content, rounded = new_digest(), _rounded(source, there.encoder["bits"], 0)
    with Progress("latents checked", wanted.samples) as progress, closing(read_ahead(rounded)) as ahead:
        for stored in ahead:
            content.update(stored.data)
            progress.advance(len(stored))
    content.update(source.labels.astype("<i8").data)
    if content.hexdigest() != there.content_blake2b:
        raise UserError(f"{out}: exists already and is of other latents or labels; remove it or give another name")
    if stored_blake2b(BetonFile(out), "moments") != there.content_blake2b:
        raise UserError(f"{out}: exists already but is not what its manifest says; remove it and import it again")
    return there


def _to_bits(batch: Tensor, bits: str, source: LatentSource, first: int) -> Tensor:
    """The int16 with the bits of the nearest 16-bit floats. Raises UserError with the file's name for a number that cannot be stored."""
    least, most = (value.item() for value in torch.aminmax(batch))
    if batch.dtype == torch.float64 and bits == "fp16":                        # torch rounds twice, which may be one unit off
        narrow = torch.from_numpy(batch.numpy().astype(np.float16))
    else:
        narrow = batch.to(BITS[bits])
    fits = -torch.finfo(BITS[bits]).max < least and most < torch.finfo(BITS[bits]).max     # false for NaN; checking each number is slow
    if not fits and (bad := torch.nonzero(~torch.isfinite(narrow).flatten(1).all(1)).flatten().tolist()):
        row = batch[bad[0]]
        why = f"{row.abs().max().item():g}, which {bits} cannot hold" if torch.isfinite(row).all() else "a number that is not finite"
        hint = "; --bits bf16 may" if bits == "fp16" and torch.isfinite(row).all() else ""
        raise UserError(f"{source.name_of(first + bad[0])}: holds {why}{hint}")
    return narrow.contiguous().view(torch.int16)
