"""Builds a .beton file from images of any source: read, decode and crop in several processes; it can be stopped at any time.

Work in progress is in ``.OUT.partial`` next to OUT: finished chunks, which the next attempt reuses, and unpacked
archives. Chunks are written to OUT in order as they finish; at the end the folder is removed. OUT is written completely or not at all.
"""

import fcntl
import os
import shutil
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ditscale
from ditscale.data.beton import BetonFile, FieldSpec, stream_beton
from ditscale.data.chunks import Chunk, Recipe, Task, finished, hash_items, make_chunk, tasks_of
from ditscale.data.decode import HANDLED
from ditscale.data.manifest import Manifest, manifest_if_any, manifest_path, stored_blake2b, write_manifest
from ditscale.data.progress import Progress, outcome
from ditscale.data.sources import open_source
from ditscale.data.sources.base import Source
from ditscale.data.workers import Workers
from ditscale.digest import new_digest
from ditscale.errors import UserError, count
from ditscale.writing import writing, written_whole

FEW = 5                                                                         # names in a message


@dataclass(frozen=True)
class BuildSummary:
    """The result at ``path``."""

    path: Path
    manifest: Manifest
    notes: list[str]
    seconds: float
    built: bool                                                                 # False: it already existed

    def __str__(self) -> str:
        m = self.manifest
        lines = [f"{self.path}: {count(m.samples, 'image')} of {m.shape[2]} x {m.shape[1]} pixels, {count(m.shape[0], 'channel')}, "
                 f"{count(m.classes, 'class', 'classes')}, split {m.split} ({outcome(self.seconds, self.built)})", *self.notes]
        if m.handled:
            lines.append("converted: " + ", ".join(f"{number:,} {name}" for name, number in m.handled.items()))
        if m.handled.get("enlarged"):
            lines.append(f"{count(m.handled['enlarged'], 'image was', 'images were')} smaller than {m.shape[1]} pixels and enlarged; a smaller "
                         "--size keeps their own pixels")
        if m.skipped:
            lines.append(f"left out: {named(m.skipped)}; all of them: {manifest_path(self.path)}")
        return "\n".join(lines)


def build_images(path, out, *, size: int, channels: int = 3, labels=None, split: str | None = None, skip_errors: bool = False,
                 workers: int | None = None, max_pixels: int = 500_000_000, **choices) -> BuildSummary:
    """Write ``out`` and its manifest. Does nothing if ``out`` is the complete result of the same build.

    Fields: 'image' uint8 (channels, size, size), 'label' integer. The same source gives the same bytes, with any ``workers``.

    Args:
        path, labels, split, choices: see ``sources.open_source``.
        skip_errors: leave out images that cannot be read; else they are an error and nothing is written.
        workers: processes; None: as many as there are cores for this process.
        max_pixels: a larger image counts as one that cannot be read.

    Raises:
        UserError: the source or one of its images cannot be used, ``out`` is something else, or cannot be written.
    """
    path, out, recipe = Path(path), Path(out), Recipe(size, channels, max_pixels)
    started = time.monotonic()
    check_paths(path, out)
    with work_folder(out) as folder, Workers(workers or len(os.sched_getaffinity(0))) as processes:
        source = open_source(path, labels=labels, split=split, scratch=folder, **choices)
        tasks = tasks_of(source, recipe, folder)
        built = not out.exists()
        if built:
            manifest = _make(path, out, source, recipe, tasks, processes, skip_errors)
        else:
            manifest = _same_build(out, source, recipe, tasks, skip_errors, processes)
    return BuildSummary(out, manifest, source.notes, time.monotonic() - started, built)


def named(skipped: list[dict[str, str]]) -> str:
    """``2 images: a.jpg (image file is truncated), b.jpg (...)``."""
    shown = ", ".join(f"{item['name']} ({item['reason']})" for item in skipped[:FEW])
    return f"{count(len(skipped), 'image')}: {shown}{', ...' * (len(skipped) > FEW)}"


def check_paths(path: Path, out: Path) -> None:
    """The checks that need no reading."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name the file to write, for example {out / 'train.beton'}")
    if out.suffix != ".beton":
        raise UserError(f"{out}: the name of the file to write ends in .beton")
    if not out.exists() and manifest_path(out).exists() and manifest_if_any(out) is None:  # left left by a build that was killed at its end
        raise UserError(f"{manifest_path(out)}: exists and is not a manifest of ditscale, which would overwrite it; give another name")


@contextmanager
def work_folder(out: Path, kept: str = "*.pixels"):
    """The folder for work in progress, locked by this process. After a failure it stays if it has ``kept`` files, for the next attempt."""
    folder = out.with_name(f".{out.name}.partial")
    with writing(out):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another build of it is running") from None
        for begun in folder.glob(".*"):                                         # left by a build that was killed
            shutil.rmtree(begun, ignore_errors=True)
        try:
            yield folder
        except BaseException:
            if not any(folder.glob(kept)):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


class _SomeFailed(Exception):
    """An image cannot be used, so the file will have fewer samples than announced."""


def _make(path: Path, out: Path, source: Source, recipe: Recipe, tasks: list[tuple[slice, Task]], processes: Workers,
          skip_errors: bool) -> Manifest:
    """Write ``out`` while its chunks are made; write it again if images must be left out, once all of those are known."""
    chunks = [finished(task) for _, task in tasks]
    with closing(_in_order(path, source, tasks, chunks, processes)) as made:
        try:
            return _write(path, out, source, recipe, tasks, chunks, made, [])
        except _SomeFailed:
            for _ in made:
                pass
    skipped = _skipped(path, source, tasks, chunks, skip_errors)
    return _write(path, out, source, recipe, tasks, chunks, range(len(tasks)), skipped)


def _in_order(path: Path, source: Source, tasks: list[tuple[slice, Task]], chunks: list[Chunk | None], processes: Workers):
    """Yields the number of each chunk, in order, as soon as it and all before it are in ``chunks``, which is filled meanwhile by the workers.

    Reports each failed image at once, as the end may be hours away.
    """
    missing = [number for number, chunk in enumerate(chunks) if chunk is None]
    found, ready = sum(len(chunk.digests) for chunk in chunks if chunk), 0
    _check_space(tasks, missing)
    with Progress("images", len(source.names), done=found) as progress:
        for place, chunk in processes.each(make_chunk, [tasks[number][1] for number in missing]):
            part, _ = tasks[missing[place]]
            chunks[missing[place]] = chunk
            progress.advance(len(chunk.digests))
            for inside, reason in chunk.failed.items():
                progress.say(f"{path}: {source.names[part.start + int(inside)]}: {reason}")
            while ready < len(chunks) and chunks[ready]:
                yield ready
                ready += 1
    yield from range(ready, len(chunks))


def _check_space(tasks: list[tuple[slice, Task]], missing: list[int]) -> None:
    """Raises UserError now if the disk is too small, not after hours of work."""
    folder, record = tasks[0][1].folder, tasks[0][1].recipe.record_bytes
    needed = record * sum(len(task.places) for _, task in tasks)                # the file itself
    needed += record * sum(len(tasks[number][1].places) for number in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder.parent}: {needed / 2**30:.1f} GiB are needed while the file is built, "
                        f"{free / 2**30:.1f} are free")


def _skipped(path: Path, source: Source, tasks: list[tuple[slice, Task]], chunks: list[Chunk], allowed: bool) -> list[dict]:
    """The images that cannot be used, for the manifest. Raises UserError if leaving them out is not allowed, or no image is left."""
    skipped = [{"name": source.names[part.start + int(place)], "reason": reason}
               for (part, _), chunk in zip(tasks, chunks) for place, reason in chunk.failed.items()]
    if len(skipped) == len(source.names):
        raise UserError(f"{path}: no image can be used: {named(skipped)}")
    if skipped and not allowed:
        raise UserError(f"{path}: cannot use {named(skipped)}; fix or remove them, or leave them out with "
                        "--on-error skip; finished chunks are kept for the next attempt")
    return skipped


def _write(path: Path, out: Path, source: Source, recipe: Recipe, tasks: list[tuple[slice, Task]], chunks: list[Chunk],
           order, skipped: list[dict]) -> Manifest:
    """Write the chunks to ``out``, one after the other. The manifest is written just before it, so no file is without one.

    ``order`` yields their numbers, each when its chunk is finished. Raises _SomeFailed at a failed image, unless all failed images
    are ``skipped``.
    """
    labels, content = source.labels, new_digest()
    if skipped:
        labels = np.concatenate([source.labels[part][chunk.kept] for (part, _), chunk in zip(tasks, chunks)])
    shape = (recipe.channels, recipe.size, recipe.size)

    def batches():
        for number in order:
            if chunks[number].failed and not skipped:
                raise _SomeFailed
            if stored := tasks[number][1].pixels.read_bytes():
                content.update(stored)
                yield {"image": np.frombuffer(stored, np.uint8).reshape(-1, *shape)}

    specs = {"image": FieldSpec(np.dtype(np.uint8), shape), "label": FieldSpec(np.dtype("<i8"), ())}
    with written_whole(out, tasks[0][1].folder) as aside:
        stream_beton(aside, specs, len(labels), {"label": labels}, batches())
        content.update(labels.astype("<i8").data)
        handled = sum((Counter(chunk.handled) for chunk in chunks), Counter())
        manifest = Manifest(
            name=path.resolve().name.split(".")[0], split=source.split, samples=len(labels), shape=list(shape),
            classes=source.classes, class_counts=np.bincount(labels, minlength=source.classes).tolist(), source=source.words,
            source_blake2b=source_blake2b(source, [digest for chunk in chunks for digest in chunk.digests]),
            content_blake2b=content.hexdigest(), writer="numpy", ditscale_version=ditscale.__version__, crop=crop_words(recipe),
            handled={name: handled[name] for name in HANDLED if handled[name]}, skipped=skipped, class_names=source.class_names)
        write_manifest(out, manifest)
    return manifest


def crop_words(recipe: Recipe) -> str:
    return f"adm {recipe.size}"


def source_blake2b(source: Source, digests: list[str]) -> str:
    """Hash over name, label and the hash of every image as it was read, in order."""
    digest = new_digest()
    for name, label, read in zip(source.names, source.labels.tolist(), digests, strict=True):
        digest.update(f"{name}\0{label}\0{read}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _same_build(out: Path, source: Source, recipe: Recipe, tasks: list[tuple[slice, Task]], skip_errors: bool,
                processes: Workers) -> Manifest:
    """The manifest of ``out``. Raises UserError unless building it again would give the same file."""
    there = manifest_if_any(out)
    if there is None:
        raise UserError(f"{out}: exists already and has no manifest; remove it or give another name")
    shape = [recipe.channels, recipe.size, recipe.size]
    wanted = {"kind": "pixels", "shape": shape, "crop": crop_words(recipe), "split": source.split,
              "class_names": source.class_names}
    for name, value in wanted.items():
        if getattr(there, name) != value:
            raise UserError(f"{out}: exists already and is another build: {name} {getattr(there, name)}, not {value}; "
                            "remove it or give another name")
    if there.skipped and not skip_errors:
        raise UserError(f"{out}: exists already, without {named(there.skipped)}; remove it, or allow that with --on-error skip")
    digests = {}
    with Progress("images checked", len(source.names)) as progress:
        for number, found in processes.each(hash_items, [task for _, task in tasks]):
            digests[number] = found
            progress.advance(len(found))
    if source_blake2b(source, [digest for number in sorted(digests) for digest in digests[number]]) != there.source_blake2b:
        raise UserError(f"{out}: exists already with other images or labels; remove it or give another name")
    if stored_blake2b(BetonFile(out)) != there.content_blake2b:
        raise UserError(f"{out}: exists already but is not what its manifest says; remove it and build it again")
    return there
