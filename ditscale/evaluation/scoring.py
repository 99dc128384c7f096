"""Computes scores of images: one pass through the feature network, then all requested metrics."""

import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ditscale.config import MeasureConfig
from ditscale.data.beton import BetonFile
from ditscale.errors import UserError
from ditscale.evaluation.extractors.make import make_extractor
from ditscale.evaluation.metrics.frechet import frechet_distance
from ditscale.evaluation.metrics.moments import Accumulator, Moments, merge_over_ranks
from ditscale.evaluation.metrics.names import extractor_name
from ditscale.evaluation.metrics.table import OF_EACH_IMAGE, PROBABILITIES, REAL_IMAGES, SPATIAL, Measured, chosen, needing
from ditscale.evaluation.reference import load_reference
from ditscale.evaluation.store import FeatureStore
from ditscale.ranks import World
from ditscale.rundir import hold
from ditscale.writing import writing

FEWEST = 16                                                                    # with fewer images not even the bias is measured
ENOUGH = 5                                                                     # images per dimension; with fewer, a score is unreliable
SCRATCH, LOCK = ".features-", "lock"                                           # names of a folder for features, and of its lock file


@dataclass(frozen=True)
class Scores:
    """The scores of one set of images.

    Attributes:
        score: the Frechet distance to the reference.
        values: the metrics of ``evaluation.also``, by name.
        error: the score's bootstrap standard error over the images, or None.
        bias: about how much the score is too high because of few images; None if there are enough.
    """

    score: float
    values: dict[str, float]
    error: float | None
    bias: float | None


class Scorer:
    """A feature network and a reference; scores any number of sets of images.

    Raises:
        UserError: the network or the reference is not available, or does not support a metric of ``evaluation.also``.
    """

    def __init__(self, settings: MeasureConfig, world: World):
        self.settings, self.world, self.also = settings, world, chosen(settings.also)
        self.extractor = make_extractor(extractor_name(settings.metric), settings.extractor_path, world.device)
        self.reference = load_reference(settings.reference_path, self.extractor)
        if (asking := needing(SPATIAL, self.also)) and self.reference.spatial_moments is None:
            raise UserError(f"evaluation.also has {' and '.join(asking)}, but {settings.reference_path} has no spatial statistics (mu_s, sigma_s); "
                            "only Inception's references have them")
        if needing(REAL_IMAGES, self.also) and self.reference.images is None:
            raise UserError(f"evaluation.also: {' and '.join(needing(REAL_IMAGES))} compare with real images, and "
                            f"{settings.reference_path} has only statistics; give images")

    def alone(self) -> "Scorer":
        """This scorer without further metrics, for many scores of which one is reported."""
        plain = copy(self)
        plain.also = []
        return plain

    def passport(self, samples: int) -> dict:
        """The passport's fields on how images are measured."""
        return {"metric": self.settings.metric, "extractor_sha256": self.extractor.sha256, "resize": self.extractor.resize,
                "reference_sha256": self.reference.sha256, "reference_samples": self.reference.samples,
                "samples": samples, "precision": "fp32"}

    def score(self, batches, count: int, scratch: Path | None = None) -> Scores | None:
        """The scores of ``count`` images, on rank 0; None on the others. Collective. Exceptions from ``batches`` are passed on and
        leave no files.

        Args:
            batches: yields this rank's images as (positions (b,), uint8 (b, C, H, W)).
            scratch: a folder that all ranks can access, for temporary features; default: the system's.
        """
        with self._store(count, scratch) as store:
            halves, spatial = self._gather(batches, store)
            if not self.world.is_main:
                return None
            moments = _together(halves).moments()
            if not np.isfinite(moments.mean).all():
                raise UserError(f"the features of {self.settings.metric} are not finite: the feature network's weights "
                                f"({self.settings.extractor_path}) are damaged")
            (values, error), score = self._further(store, spatial), self._distance(moments)
            return Scores(score, values, error, self._bias(halves, score) if self._is_few(count) else None)

    def warning(self, count: int, scores: Scores) -> str:
        """Warnings about the number of samples and of reference images; "" if both are enough."""
        return ". ".join(filter(None, (self._few_images(count, scores), self._few_in_reference())))

    def _few_in_reference(self) -> str:
        dimensions, reference = self.reference.moments.dimensions, self.reference.samples
        if reference is None or reference >= ENOUGH * dimensions:
            return ""
        return (f"The reference has {reference:,} images for {dimensions:,} dimensions; at least {ENOUGH * dimensions:,} are "
                "needed, so every distance to it is too high")

    def _few_images(self, count: int, scores: Scores) -> str:
        if not self._is_few(count):
            return ""
        dimensions, reference = self.reference.moments.dimensions, self.reference.samples
        counts = f"{count:,} images is not more than the {dimensions:,} feature dimensions, so the covariance is singular" if count <= dimensions \
            else f"{count:,} images for {dimensions:,} dimensions"
        expects = f"; the reference has {reference:,}" if reference and count < reference else ""
        if count < FEWEST or scores.bias is None:
            return (f"{count:,} images are too few: for {dimensions:,} dimensions at least {ENOUGH * dimensions:,} are "
                    f"needed{expects}; the score is almost meaningless, and its bias is unknown")
        much = f"by about {scores.bias:.2g}" if scores.bias > 0 else "by less than half of them can show"
        return (f"{counts}{expects}: the score is too high {much} for this reason; "
                "compare it only with scores of the same number of images")

    def _is_few(self, count: int) -> bool:
        return count < max(ENOUGH * self.reference.moments.dimensions, self.reference.samples or 0)

    def _bias(self, halves: tuple[Accumulator, Accumulator], score: float) -> float | None:
        """The distance is ``a + b / N`` to first order: half of the images score higher by b / N, which is the bias of all."""
        if min(half.state()[0] for half in halves) < 2:
            return None
        return sum(self._distance(half.moments()) for half in halves) / 2 - score

    def _distance(self, moments: Moments) -> float:
        return frechet_distance(moments, self.reference.moments)

    def floor(self, train: BetonFile, samples: int) -> float:
        """The same distance for real training images, as many as are sampled (all if there are fewer): the score of perfect
        samples. Equal counts matter, as the distance is biased upward by about 1 / count."""
        chosen = np.linspace(0, train.num_samples - 1, min(samples, train.num_samples)).round().astype(np.int64)
        found = Accumulator(self.reference.moments.dimensions)
        for first in range(0, len(chosen), self.extractor.batch):
            images = torch.from_numpy(train.read("image", chosen[first:first + self.extractor.batch]))
            features = self.extractor(images).pooled.cpu().numpy()
            self._check_dimensions("features", features.shape[1], found)
            found.add(features)
        return self._distance(found.moments())

    def _gather(self, batches, store: FeatureStore | None) -> tuple[tuple[Accumulator, Accumulator], Accumulator | None]:
        """One pass over this rank's images; returns the moments of all ranks: of each half of the images, and spatial ones."""
        halves = Accumulator(self.reference.moments.dimensions), Accumulator(self.reference.moments.dimensions)
        spatial = Accumulator(self.reference.spatial_moments.dimensions) if needing(SPATIAL, self.also) else None
        for positions, images in batches:
            for at, part in zip(positions.split(self.extractor.batch), images.split(self.extractor.batch)):
                features = self.extractor(part)
                rows, first = features.pooled.cpu().numpy(), _in_first_half(at.cpu().numpy())
                self._check_dimensions("features", rows.shape[1], halves[0])
                halves[0].add(rows[first])
                halves[1].add(rows[~first])
                if spatial is not None:
                    self._check_dimensions("spatial features", features.spatial.shape[1], spatial)
                    spatial.add(features.spatial.cpu().numpy())
                if store:
                    store.put(at.cpu().numpy(), features)
        group = self.world.control
        first_half, second_half = (merge_over_ranks(half, group) for half in halves)
        return (first_half, second_half), merge_over_ranks(spatial, group) if spatial else None

    def _check_dimensions(self, words: str, found: int, wanted: Accumulator) -> None:
        if found != wanted.dimensions:
            raise UserError(f"{self.settings.reference_path}: its statistics have {wanted.dimensions} {words}, but "
                            f"{self.extractor.name} makes {found}; recompute them with `ditscale stats`")

    def _further(self, store: FeatureStore | None, spatial: Accumulator | None) -> tuple[dict[str, float], float | None]:
        """The metrics of ``evaluation.also``: finite values by name, and the score's standard error."""
        if store and store.logits is None and (asking := needing(PROBABILITIES, self.also)):
            raise UserError(f"evaluation.also has {' and '.join(asking)}, but the extractor of {self.settings.metric} has no class logits")
        found = Measured(features=store.pooled if store else None, logits=store.logits if store else None,
                         real_features=self._reference_features.pooled if needing(REAL_IMAGES, self.also) else None,
                         reference=self.reference.moments, spatial=spatial.moments() if spatial else None,
                         reference_spatial=self.reference.spatial_moments, device=self.world.device)
        values: dict[str, float] = {}
        error = None
        for metric in self.also:
            numbers = metric.measure(found)
            if metric.values:
                values |= {value.name: number for value, number in zip(metric.values, numbers)}
            else:
                [error] = numbers
        return {name: value for name, value in values.items() if np.isfinite(value)}, error

    @cached_property
    def _reference_features(self) -> FeatureStore:
        """The real images' features, extracted once. The folder is deleted with this object."""
        self._folder = tempfile.TemporaryDirectory(prefix="ditscale-")
        store, done = FeatureStore(self._folder.name, self.reference.images.count), 0
        for images in self.reference.images.batches(self.extractor.batch):
            store.put(np.arange(done, done + len(images)), self.extractor(torch.from_numpy(images)))
            done += len(images)
        return store

    @contextmanager
    def _store(self, count: int, scratch: Path | None):
        """A store that all ranks write to, deleted at the end; None if no metric needs one."""
        if not any(metric.needs & OF_EACH_IMAGE for metric in self.also):
            yield None
            return
        with ExitStack() as held:
            folder = held.enter_context(_scratch_folder(scratch)) if self.world.is_main else None
            yield FeatureStore(self.world.agree(folder), count)


@contextmanager
def _scratch_folder(parent: Path | None):
    """A temporary folder, deleted on exit. A kill leaves it, so folders in ``parent`` of processes that ended are deleted first."""
    for stale in parent.glob(f"{SCRATCH}*") if parent else ():
        with suppress(OSError), hold(stale / LOCK) as is_nobodys:              # another process may delete it meanwhile
            if is_nobodys:
                shutil.rmtree(stale)
    with writing(parent or tempfile.gettempdir()):
        folder = Path(tempfile.mkdtemp(prefix=f".new{SCRATCH}", dir=parent))
    try:
        with hold(folder / LOCK):
            folder = folder.rename(folder.with_name(folder.name.removeprefix(".new")))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _together(halves: tuple[Accumulator, Accumulator]) -> Accumulator:
    whole = Accumulator(len(halves[0].state()[1]))
    for half in halves:
        whole.merge(half)
    return whole


def _in_first_half(positions: np.ndarray) -> np.ndarray:
    """Which images are in the first half, pseudorandomly: every second image would be every second class."""
    return (positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(2) == 0
