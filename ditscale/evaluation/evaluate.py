"""Scores a run's checkpoints: averaged weights -> guided samples -> features -> Frechet distance -> one line in evals.jsonl."""

import sys
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditscale.config import RunConfig
from ditscale.data.beton import BetonFile
from ditscale.evaluation.best_guidance import Choice, choose, chosen_before, interval_words, selected_on
from ditscale.evaluation.metrics.table import has_all
from ditscale.evaluation.passport import Passport
from ditscale.evaluation.sampling.maker import ImageMaker, sample_parts
from ditscale.evaluation.sampling.model import weights_at
from ditscale.evaluation.scoring import Scorer
from ditscale.evaluation.validation import Validation
from ditscale.ranks import World
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.checkpoint import images_of, list_checkpoints
from ditscale.training.checkpoint.import_weights import images_known
from ditscale.training.checkpoint.weights import is_passed_over
from ditscale.training.schedule import is_due
from ditscale.training.trackers import log_score
from ditscale.writing import check_writable, writing

SHEET_IMAGES = 100                                                             # samples kept for the sheets of the report


class _Stopped(Exception):
    """Stopped before all images were made."""


class Evaluator:
    """Scores the checkpoints of a run by its section ``evaluation``; keeps what does not change between checkpoints.

    Args:
        scorer: reused from an evaluation with the same metric, network and reference; default: a new one.
    """

    def __init__(self, config: RunConfig, world: World, scorer: Scorer | None = None):
        self.config, self.settings, self.world = config, config.evaluation, world
        self.maker = ImageMaker(config, self.settings, world.device)
        self.scorer = scorer or Scorer(self.settings, world)
        self.passport = Passport(**self.scorer.passport(self.settings.samples), **self.maker.passport(), seed=self.settings.seed,
                                 selected_on=selected_on(self.settings))
        self.floor = self._floor()
        self.validation = Validation(config, world) if self.settings.validation else None

    def evaluate_missing(self, run: RunDir, stop=lambda: False) -> bool:
        """Scores every checkpoint that is due and has no line in evals.jsonl with this passport; False if ``stop()`` ended it
        early. Collective."""
        for checkpoint in self.validation.missing(run) if self.validation else ():
            if self.world.any(bool(stop())):
                return False
            self.validation.evaluate(run, checkpoint)
        for checkpoint in self._missing(run):
            if self.world.any(bool(stop())) or not self.evaluate(run, checkpoint, stop):
                return False
        return True

    def between(self, run: RunDir) -> dict[str, Any]:
        """The hooks for ``train`` that compute a validation loss between checkpoints; empty if none is configured."""
        validation = self.validation
        if validation is None or not validation.settings.every_images:
            return {}
        return {"between": partial(validation.between, run), "between_every_images": validation.settings.every_images}

    def _missing(self, run: RunDir) -> list[Path]:
        """The checkpoints that are due, not scored and not damaged, as seen by rank 0: other ranks may see its files late. Collective."""
        return self.world.agree([checkpoint for checkpoint in list_checkpoints(run) if self._is_missing(run, checkpoint)]
                     if self.world.is_main else None)

    def _is_missing(self, run: RunDir, checkpoint: Path) -> bool:
        return is_due(self.config, images_of(checkpoint)) and self.line(run, images_of(checkpoint)) is None and \
            not is_passed_over(checkpoint, self.settings.average)

    def line(self, run: RunDir, images_seen: int | None) -> dict | None:
        """The newest line in evals.jsonl for the checkpoint with this passport and all requested metrics, or None."""
        found = run.evaluations(images_seen, self.passport.digest())
        return next((line for line in reversed(found) if has_all(line, self.settings.also)), None)

    def evaluate(self, run: RunDir, checkpoint: Path, stop=lambda: False) -> bool:
        """Scores a checkpoint and writes its line, even if there is one. ``stop()`` is called before each batch of images;
        if it ends the scoring, nothing is written and the result is False. Collective."""
        started, images_seen, settings = time.perf_counter(), images_known(self.config, checkpoint), self.settings
        sheet_path = run.samples / f"{checkpoint.name}.npz"
        for path in (run.evals, sheet_path) if self.world.is_main else ():
            check_writable(path)                                               # before the work, not after it
        self.maker.load(weights_at(run, checkpoint, settings.average))
        sheet = Sheet()
        try:
            choice, searched = self._choose(run, images_seen, stop) if settings.guidance else (None, 0)
            made = self._until(stop, sample_parts(self.maker, self._mine(settings.samples), settings.seed), settings.samples)
            scores = self.scorer.score(sheet.keeping(made), settings.samples, scratch=run.path)
        except _Stopped:
            return False
        finally:
            self.maker.unload()
        nan_images = self.world.sum(len(self.maker.nan_images))
        if not self.world.is_main:
            return True
        sheet.write(sheet_path)
        seconds, scale, interval = time.perf_counter() - started, self.maker.scale, self.maker.interval
        passport = replace(self.passport, guidance_scale=scale, guidance_interval=interval_words(interval))
        log_score(run, {
            "images_seen": images_seen, "metric": settings.metric, "score": scores.score, "floor": self.floor,
            "values": scores.values, "error": scores.error, "bias": scores.bias, "nan_images": nan_images, "passport_id": passport.digest(),
            "passport": asdict(passport), "seconds": seconds, "forwards_per_image": self.maker.forwards,
            "sampling_flops": self.maker.flops * settings.samples + searched,
            "accelerator_hours": seconds * self.world.size / 3600, **({"guidance_search": choice.record()} if choice else {})})
        print(self._words(images_seen, scores, nan_images), flush=True)
        for warning in filter(None, (self.scorer.warning(settings.samples, scores), choice.warning if choice else "")):
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        return True

    def _choose(self, run: RunDir, images_seen: int | None, stop) -> tuple[Choice, int]:
        """Searches the guidance of the loaded weights and sets it, or sets what was chosen for samples of another seed; also returns the FLOPs
        of the search's images. Collective.

        Raises:
            _Stopped: ``stop()`` ended it early.
        """
        settings = self.settings
        choice = self.world.agree(chosen_before(run, images_seen, self.passport) if self.world.is_main else None)
        spent: list[int] = []
        if choice is None:
            choice = choose(settings.search, settings.guidance_interval, settings.samples, partial(self._score_at, run, stop, spent))
        self.maker.guide_by(choice.scale, choice.interval)
        self.maker.nan_images = []
        return choice, sum(spent)

    def _score_at(self, run: RunDir, stop, spent: list[int], scale: float, interval: tuple[float, float] | None, count: int) -> float:
        """The score of ``count`` samples of the search's seed with this guidance, on every rank; their FLOPs are added to ``spent``. Collective."""
        self.maker.guide_by(scale, interval)
        spent.append(self.maker.flops * count)
        made = self._until(stop, sample_parts(self.maker, self._mine(count), self.settings.search.seed), count)
        scores = self.scorer.alone().score(((positions, images) for positions, images, _ in made), count, scratch=run.path)
        return self.world.agree(scores.score if self.world.is_main else None)

    def _until(self, stop, parts, count: int):
        """Yields this rank's parts of ``count`` images; all ranks stop before the same one. A rank with one part less makes as many collective
        calls as the others. Collective.

        Raises:
            _Stopped: ``stop()`` is true on some rank.
        """
        for _ in range(0, count, self.settings.batch * self.world.size):
            if self.world.any(bool(stop())):
                raise _Stopped
            yield from islice(parts, 1)

    def _mine(self, count: int) -> torch.Tensor:
        """This rank's positions of ``count``: every ``size``-th batch, so that batches are the same on any number of ranks."""
        batches = torch.arange(count).split(self.settings.batch)
        return torch.cat([*batches[self.world.rank::self.world.size], torch.empty(0, dtype=torch.int64)])

    def _floor(self) -> float | None:
        """The score of real training images, if these are pixels on this machine."""
        if self.maker.decoder or not Path(self.config.data.path).exists():
            return None
        train = BetonFile(self.config.data.path)
        return self.scorer.floor(train, self.settings.samples) if train.num_samples > 1 else None

    def _words(self, images_seen: int | None, scores, nan_images: int) -> str:
        floor = f" (floor {self.floor:.2f})" if self.floor is not None else ""
        others = "".join(f"  {name} {value:.4g}" for name, value in scores.values.items())
        chosen = f"  best guidance {self.maker.scale:g}" if self.settings.guidance else ""
        warning = f"  WARNING: {nan_images} of {self.settings.samples} images were not finite" if nan_images else ""
        return f"images {'not known' if images_seen is None else images_seen:>9}  {self.settings.metric} {scores.score:.2f}{floor}{others}{chosen}{warning}"


class Sheet:
    """Collects the first samples on rank 0."""

    def __init__(self):
        self._images, self._labels = [], []

    def keeping(self, made):
        """Yields (positions, images) from ``sample_parts`` and keeps the first images."""
        for positions, images, labels in made:
            first = positions < SHEET_IMAGES
            self._images.append(images[first].numpy())
            self._labels.append(labels[first].numpy())
            yield positions, images

    def write(self, path: Path) -> None:
        """An ADM .npz, images uint8 (N, H, W, C)."""
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, arr_0=np.concatenate(self._images).transpose(0, 2, 3, 1), arr_1=np.concatenate(self._labels))
