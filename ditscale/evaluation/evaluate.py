"""Score a run's checkpoints: EMA weights -> guided samples -> features -> Frechet distance -> one line in evals.jsonl."""

import time
from dataclasses import asdict

import numpy as np
import torch
import torch.distributed as dist

from ditscale.config import RunConfig
from ditscale.data.beton import BetonFile
from ditscale.evaluation.extractors.digits_cnn import load_digits_cnn
from ditscale.evaluation.frechet import frechet_distance
from ditscale.evaluation.moments import moments
from ditscale.evaluation.maker import ImageMaker, sample_parts
from ditscale.evaluation.passport import Passport
from ditscale.rundir import RunDir, append_line, read_lines
from ditscale.training.checkpoint import file_sha256, images_of, list_checkpoints, load_ema
from ditscale.training.distributed import World

SHEET_IMAGES = 100                                                             # samples kept for the sheets of the report


class Evaluator:
    """Holds what does not change between checkpoints: feature network, reference statistics, floor, passport."""

    def __init__(self, config: RunConfig, world: World):
        self.config, self.settings, self.world = config, config.evaluation, world
        self.maker = ImageMaker(config, config.evaluation, world.device)
        self.extractor = load_digits_cnn(self.settings.extractor_path).to(world.device)
        reference = BetonFile(self.settings.reference_path)
        self.reference = moments(self._features(_all_images(reference)))
        self.passport = Passport(
            metric=self.settings.metric, extractor_sha256=file_sha256(self.settings.extractor_path),
            reference_sha256=file_sha256(self.settings.reference_path), reference_samples=reference.num_samples,
            samples=self.settings.samples, seed=self.settings.seed, ema_decay=config.train.ema_decay, resize="none",
            **self.maker.passport())
        self.floor = self._floor()

    def evaluate_missing(self, run: RunDir) -> None:
        """Score every checkpoint that is due and has no line in evals.jsonl under this passport. Collective."""
        digest = self.passport.digest()
        scored = {line["images_seen"] for line in read_lines(run.evals) if line["passport_id"] == digest}
        for checkpoint in list_checkpoints(run):
            if images_of(checkpoint) not in scored and self._is_due(images_of(checkpoint)):
                self._evaluate(run, checkpoint)

    def _is_due(self, images_seen: int) -> bool:
        """Every ``evaluation.every_images``, and at the end; a checkpoint of an early stop is not, unless all are."""
        every, train = self.settings.every_images, self.config.train
        return not every or images_seen % every < train.global_batch or images_seen + train.global_batch > train.images

    def _evaluate(self, run: RunDir, checkpoint) -> None:
        started = time.perf_counter()
        settings = self.settings
        self.maker.load(load_ema(checkpoint))
        mine = torch.arange(self.world.rank, settings.samples, self.world.size)
        images, labels = (torch.cat(made) for made in list(zip(*sample_parts(self.maker, mine, settings.seed)))[1:])
        self.maker.unload()
        images, labels, features = (self._collect(part) for part in (images.numpy(), labels.numpy(), self._features(images)))
        if not self.world.is_main:
            return
        images_seen = images_of(checkpoint)
        run.samples.mkdir(exist_ok=True)
        np.savez_compressed(run.samples / f"{checkpoint.name}.npz", arr_0=images[:SHEET_IMAGES].transpose(0, 2, 3, 1),
                            arr_1=labels[:SHEET_IMAGES])
        score = frechet_distance(moments(features), self.reference)
        append_line(run.evals, {"images_seen": images_seen, "metric": settings.metric, "score": score, "floor": self.floor,
                                "passport_id": self.passport.digest(), "passport": asdict(self.passport),
                                "seconds": time.perf_counter() - started,
                                "forwards_per_image": self.maker.forwards})
        print(f"images {images_seen:>9}  {settings.metric} {score:.2f} (floor {self.floor:.2f})", flush=True)

    def _features(self, images: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([self.extractor(part.to(self.world.device)).cpu() for part in images.split(512)]).numpy()

    def _floor(self) -> float:
        """The same distance for real training images, as many as are sampled (all, where there are fewer): what perfect
        samples would score. Equal counts matter: the distance is biased upwards by about 1 / count."""
        train = BetonFile(self.config.data.path)
        chosen = np.linspace(0, train.num_samples - 1, min(self.settings.samples, train.num_samples)).round().astype(np.int64)
        return frechet_distance(moments(self._features(torch.from_numpy(train.read("image", chosen)))), self.reference)

    def _collect(self, part: np.ndarray) -> np.ndarray:
        """All ranks' rows in order of image position; rank r holds positions r, r + size, ..."""
        if self.world.size == 1:
            return part
        parts = [None] * self.world.size
        dist.all_gather_object(parts, part)
        whole = np.empty((sum(map(len, parts)), *part.shape[1:]), part.dtype)
        for rank, rows in enumerate(parts):
            whole[rank::self.world.size] = rows
        return whole


def _all_images(file: BetonFile) -> torch.Tensor:
    return torch.from_numpy(file.read("image", np.arange(file.num_samples)))
