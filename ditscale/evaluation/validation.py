"""Validation loss: the training formulation's loss over held-out images, with the same draws for every run.

Draw k of ``images`` is a held-out image, its flip, its noise and its noise level; labels are not dropped. All are functions of the
section's seed and k only, so that runs differ only by their weights. Levels are stratified: the K draws take the
K middles (i + 0.5) / K of the training distribution's quantiles once each, in a fixed permutation. The same loss is given for ten
buckets of that quantile, as each follows its own law (Abra, arXiv 2608.17286).

A part of ``TOGETHER`` draws is computed at once, on one thread, and a rank computes every ``size``-th part; the losses of single draws
are then added in order, in float64. So the loss is bit-identical for any number of ranks, and each draw's loss does not depend on other
parts. Weights and activations are fp32.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ditscale import randomness
from ditscale.config import RunConfig
from ditscale.cost.runs import validation_flops
from ditscale.data.beton import BetonFile
from ditscale.data.kinds import FIELDS, kind_of
from ditscale.data.order import indices_at
from ditscale.data.prepare import make_prepare
from ditscale.device import reproducible
from ditscale.digest import file_sha256
from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import BUCKETS, IN_BUCKETS, LOSS, SPREAD
from ditscale.evaluation.passport import Passport
from ditscale.evaluation.sampling.maker import average_of
from ditscale.evaluation.sampling.model import frozen_model, weights_at
from ditscale.objectives.from_config import make_objective
from ditscale.objectives.objective import Noised
from ditscale.ranks import World
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.checkpoint import images_of, list_checkpoints
from ditscale.training.checkpoint.import_weights import images_known
from ditscale.training.checkpoint.weights import is_passed_over
from ditscale.training.schedule import counts
from ditscale.training.trackers import log_score
from ditscale.writing import check_writable

RAW = "masters"                                                                # the trained weights, without averaging
TOGETHER = 32                                                                  # draws computed at once


class Validation:
    """Computes the validation loss of a run's checkpoints, by its section ``evaluation.validation``.

    Raises:
        UserError: the held-out file is missing, does not fit the run, or is the run's training file.
    """

    def __init__(self, config: RunConfig, world: World):
        self.config, self.settings, self.world = config, config.evaluation.validation, world
        data = config.data.model_copy(update={"path": self.settings.path})
        try:
            self.prepare = make_prepare(data)
        except UserError as error:
            raise UserError(str(error).replace("data.path", "evaluation.validation.path", 1)) from None
        self.file = BetonFile(self.settings.path)
        self.sha256 = world.agree(file_sha256(Path(self.settings.path)) if world.is_main else None)
        self._check_held_out()
        self.objective = make_objective(config)
        self.quantiles = _quantiles(self.settings)
        self.passport = self._passport(config.evaluation.average)

    def _check_held_out(self) -> None:
        trained, size = Path(self.config.data.path), Path(self.settings.path).stat().st_size
        if self.world.agree(self.world.is_main and trained.exists() and trained.stat().st_size == size and file_sha256(trained) == self.sha256):
            raise UserError(f"evaluation.validation.path {self.settings.path} is the file that the run trains on (data.path); a "
                            "validation loss needs held-out images: `ditscale data build ... --split val` makes a file of them")

    def missing(self, run: RunDir) -> list[Path]:
        """Checkpoints without a line with this passport, as seen by rank 0. Collective."""
        return self.world.agree([path for path in list_checkpoints(run) if self._is_missing(run, path)] if self.world.is_main else None)

    def _is_missing(self, run: RunDir, path: Path) -> bool:
        return counts(self.config, images_of(path)) and self.line(run, images_known(self.config, path)) is None and \
            not is_passed_over(path, self.config.evaluation.average)

    def line(self, run: RunDir, images_seen: int | None) -> dict | None:
        """The newest line in evals.jsonl at this number of images with this passport, or None."""
        return next(reversed(run.evaluations(images_seen, self.passport.digest())), None)

    def evaluate(self, run: RunDir, checkpoint: Path) -> None:
        """Adds the line of one checkpoint: the average's loss, and that of the raw weights if they were kept. Collective."""
        if self.world.is_main:
            check_writable(run.evals)                                          # before the work, not after it
        self.log(run, images_known(self.config, checkpoint), self._weights(run, checkpoint))

    def between(self, run: RunDir, images_seen: int, weights) -> None:
        """Adds the line of weights in training that are in no checkpoint, unless it exists from before a restart.
        Collective.

        Args:
            weights: gathers them by name on rank 0.
        """
        if self.world.agree(self.world.is_main and self.line(run, images_seen) is not None):
            return
        self.log(run, images_seen, [("average", self.world.share(weights()))])

    def log(self, run: RunDir, images_seen: int | None, weights: Iterable[tuple[str, dict[str, Tensor]]]) -> None:
        """Adds a line at ``images_seen`` from weights by parameter name: first the average's, then any others'. Collective."""
        started, series = time.perf_counter(), {}
        for name, tensors in weights:
            series[name] = self.losses(tensors)
        if not self.world.is_main:
            return
        main, *others = series.items()
        at = "not known" if images_seen is None else f"{images_seen:,}"
        of_draws = main[1]["loss"]
        if not np.isfinite(of_draws).all():
            print(f"warning: the validation loss at {at} images is not finite for {int((~np.isfinite(of_draws)).sum())} of {len(of_draws)} "
                  "draws; no line is written", file=sys.stderr, flush=True)
            return
        values = {name: float(draws.mean()) for name, draws in main[1].items() if name != "loss"}
        values |= {f"loss_{name}": float(draws["loss"].mean()) for name, draws in others}
        values[SPREAD] = float(of_draws.std(ddof=1))                           # not the error of a comparison, as all runs share the draws
        values |= dict(zip(IN_BUCKETS, self.buckets(of_draws)))
        values = {name: value for name, value in values.items() if np.isfinite(value)}   # a tenth may have no draw
        seconds = time.perf_counter() - started
        log_score(run, {
            "images_seen": images_seen, "metric": LOSS, "score": float(of_draws.mean()), "floor": None, "values": values,
            "error": None, "bias": None, "nan_images": 0,
            "passport_id": self.passport.digest(), "passport": asdict(self.passport), "seconds": seconds,
            "sampling_flops": validation_flops(self.config) * len(of_draws) * len(series),
            "accelerator_hours": seconds * self.world.size / 3600})
        print(f"images {at.replace(',', ''):>9}  validation loss {of_draws.mean():.5f}", flush=True)

    def losses(self, weights: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """The losses of all draws (K,) in float64, by series (``Objective.held_out``), equal on every rank. Collective.

        Args:
            weights: full tensors by parameter name.
        """
        model = frozen_model(self.config, weights, self.world.device)
        parts = torch.arange(self.settings.images).split(TOGETHER)[self.world.rank::self.world.size]
        with torch.no_grad(), reproducible():
            mine = [self._part(model, part) for part in parts]
        found: dict[int, dict[str, np.ndarray]] = {}
        for rank, of_rank in enumerate(self.world.gather(mine)):
            found |= {rank + number * self.world.size: part for number, part in enumerate(of_rank)}
        return {name: np.concatenate([found[number][name] for number in sorted(found)])[:self.settings.images]
                for name in found[0]}

    def buckets(self, losses: np.ndarray) -> list[float]:
        """The mean loss of each tenth of the noise levels, least noise first."""
        bucket = np.minimum((self.quantiles * BUCKETS).astype(int), BUCKETS - 1)
        return [float(losses[bucket == index].mean()) if (bucket == index).any() else float("nan") for index in range(BUCKETS)]

    def _part(self, model, part: Tensor) -> dict[str, np.ndarray]:
        """The losses of some draws. The last part is padded, so that all parts have one shape."""
        device, count, settings = self.world.device, len(part), self.settings
        positions = torch.cat([part, part[-1:].expand(TOGETHER - count)])
        streams = {"noise": self.objective.streams["noise"], "token mask": randomness.Uniform(self.config.tokens), **self.prepare.streams}
        drawn = randomness.draw(settings.seed, positions.to(device), {f"validation {name}": spec for name, spec in streams.items()})
        draws = {name.removeprefix("validation "): values for name, values in drawn.items()}
        at = indices_at(positions.numpy(), self.file.num_samples, settings.seed)
        parts = self.prepare.pick(settings.seed, positions.numpy()) if self.prepare.pick else None
        raw = torch.from_numpy(self.file.read(FIELDS[kind_of(self.file)], at, parts))
        images = self.prepare(raw.to(device), draws)
        labels = torch.from_numpy(self.file.read("label", at)).long().reshape(-1).to(device)
        formulation = self.objective.formulation
        t = formulation.level(torch.from_numpy(self.quantiles[positions.numpy()]).float().to(device))
        noised = Noised(formulation.add_noise(images, draws["noise"], t), draws["noise"], t, labels)
        found = self.objective.held_out(model, images, noised, draws["token mask"])
        return {name: values[:count].double().cpu().numpy() for name, values in found.items()}

    def _weights(self, run: RunDir, checkpoint: Path):
        yield "average", weights_at(run, checkpoint, self.config.evaluation.average)
        if self.world.agree((checkpoint / f"{RAW}.safetensors").exists() if self.world.is_main else None):
            yield "raw", weights_at(run, checkpoint, RAW)

    def _passport(self, average: str) -> Passport:
        formulation = self.config.formulation
        options = json.dumps(formulation.stated(), sort_keys=True)
        return Passport(
            metric=LOSS, extractor_sha256="none", reference_sha256=self.sha256, reference_samples=self.file.num_samples,
            samples=self.settings.images, resize="none", precision="fp32", labels="kept", seed=self.settings.seed,
            formulation=formulation.name, levels=f"{self.settings.levels}, draws of seed {self.settings.seed}, {options}",
            normalization=_normalization(self.prepare), **average_of(self.config, average))


def _quantiles(settings) -> np.ndarray:
    """The quantile of each draw's level in the training distribution: float64 (K,) in (0, 1)."""
    count, seed = settings.images, settings.seed
    if settings.levels == "stratified":
        return (indices_at(np.arange(count), count, seed) + 0.5) / count
    drawn = randomness.draw(seed, torch.arange(count), {"validation noise level": randomness.Uniform()})
    return drawn["validation noise level"][:, 0].double().numpy()


def _normalization(prepare) -> str:
    """12 hex digits of the latents' scaling; losses with different scaling are not compared. "" for pixels."""
    if not hasattr(prepare, "scale"):
        return ""
    stated = [value.flatten().tolist() for value in (prepare.shift, prepare.scale)]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:12]
