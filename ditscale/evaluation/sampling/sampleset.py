"""Generates a set of images on disk, bit-identical on any number of ranks; a stopped command continues.

A *part* is one batch of images by their number in the set, so batches never depend on the ranks or on a stop.
Rank r of n makes parts r, r + n, ... in a work folder next to the result, and rank 0 publishes the complete result.
"""

import time
from contextlib import nullcontext
from pathlib import Path

import torch

from ditscale.config import RunConfig, SamplingConfig
from ditscale.data.progress import Progress
from ditscale.device import local_device
from ditscale.diffusion.nfe import without_others
from ditscale.environment import environment
from ditscale.errors import UserError, count
from ditscale.evaluation.sampling.guide import check_other
from ditscale.evaluation.sampling.imagefiles import form_of
from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.evaluation.sampling.workfolder import WorkFolder, read_note, refuse_other
from ditscale.ranks import World, join_ranks
from ditscale.rundir import RunDir
from ditscale.section import validate
from ditscale.training.checkpoint.checkpoint import images_of
from ditscale.training.checkpoint.weights import pick_checkpoint, run_config


def settings_of(config: RunConfig, changes: dict, source: str) -> SamplingConfig:
    """The sampling settings of a run's own evaluation, with changes.

    Raises:
        UserError: an unknown key or a bad value, or the run has no section ``evaluation`` and no number of steps is given.
    """
    stated = config.evaluation or (config.imported.sampling if config.imported else None)
    own = {name: getattr(stated, name) for name in SamplingConfig.model_fields} if stated else {}
    if not own and "sampling_steps" not in changes:
        raise UserError(f"{source} has no section evaluation, which defines how to sample; give sampling_steps=50, for example")
    if config.imported and not config.evaluation:                              # as that project samples: a preset, not the user's words
        own = without_others(own, changes)
    return validate(SamplingConfig, {**own, **changes}, source)


def sample_set(run: RunDir, out, settings: SamplingConfig, *, images: int, seed: int, checkpoint: int | None = None,
               form: str | None = None, compiled: bool = False, config: RunConfig | None = None, say=print) -> list[int]:
    """Writes images 0 to ``images`` - 1 of a seed to ``out``; does nothing if they exist.

    Called on every rank; only rank 0 prints. The run is only read.

    Args:
        checkpoint: the one at this number of images seen; None: the newest.
        compiled: compile the model on a CPU too; on a GPU it always is.
        form: ``png`` or ``npz``; None: by the name of ``out``.
        config: default: the run's own.

    Returns:
        the numbers of images with values that are not finite; they are unusable.

    Raises:
        UserError: settings, weights or VAE do not fit the run, or ``out`` or its work folder contains something else.
    """
    out, config, device = Path(out), config or run_config(run), str(local_device())
    if compiled:
        config = config.model_copy(update={"resources": config.resources.model_copy(update={"compile": True})})
    kind, maker = form_of(out, form), ImageMaker(config, settings, device)
    if maker.guide:
        check_other(maker.guide, pick_checkpoint(run, checkpoint, settings.average))
    with join_ranks() as ranks:
        at = images_of(pick_checkpoint(run, checkpoint, settings.average)) if ranks.is_main else None
        newest = ranks.agree(at)                                               # training may continue and save another
        weights, origin = choose_weights(run, newest, settings.average)
        plan = {"run": run.run_id, **origin, "images": images, "seed": seed, "format": kind.name,
                "compiled": config.resources.compile, "decoder": maker.passport()["decoder"],
                **settings.model_dump(mode="json", exclude={"vae", "average"})}
        work = WorkFolder(out, images, settings.batch)
        result = kind(out, work.path, maker.image_channels)
        if not ranks.agree(ranks.is_main and _exists(result, plan)):
            _make(maker, weights, plan, work, result, ranks, say)
        elif ranks.is_main:
            say(f"{out}: already exists")
        if not ranks.is_main:
            return []
        work.remove()
        return read_note(result.note)["nan_images"]


def _exists(result, plan: dict) -> bool:
    """Whether the set already exists. Raises UserError if something else is there."""
    if not result.out.exists():
        return False
    note = read_note(result.note)
    if note is None:
        raise UserError(f"{result.out}: already exists and is not a set of images from `ditscale sample`; give another name")
    refuse_other(result.out, note, plan)
    return True


def _make(maker: ImageMaker, weights: dict, plan: dict, work: WorkFolder, result, ranks: World, say) -> None:
    """Makes missing parts and publishes the set. Collective."""
    if ranks.is_main:
        work.open(plan)
    ranks.wait()
    maker.load(weights)
    before, started = work.images_done(), time.perf_counter()
    if before and ranks.is_main:
        say(f"{work.path}: continuing from {before:,} of {count(work.images, 'image')}")
    _make_parts(maker, work, result, plan["seed"], ranks)
    ranks.wait()
    if ranks.is_main:
        labels = maker.labels(torch.arange(work.images), plan["seed"]).numpy()
        made = {"passport": maker.passport(), "nan_images": work.nan_images(), "environment": environment(maker.device)}
        with work.writing():
            result.finish(work.parts, labels, plan | made)
        say(f"{result.out}: {count(work.images, 'image')}, {(work.images - before) / (time.perf_counter() - started):,.1f} images/s")


def _make_parts(maker: ImageMaker, work: WorkFolder, result, seed: int, ranks: World) -> None:
    """Makes this rank's missing parts; rank 0 shows the progress of all."""
    shown = work.images_done()
    with Progress("images", work.images, done=shown) if ranks.is_main else nullcontext() as progress:
        for part in range(ranks.rank, work.parts, ranks.size):
            if work.has(part):
                continue
            positions, known = torch.tensor(work.positions(part)), len(maker.nan_images)
            images, _ = maker.make(positions, seed)
            with work.writing():
                result.keep(part, positions[0].item(), images.numpy())
                work.mark(part, maker.nan_images[known:])
            if progress:
                done = work.images_done()
                progress.advance(done - shown)
                shown = done
