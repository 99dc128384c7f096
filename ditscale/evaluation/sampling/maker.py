"""Generates images: image i of a seed is the same for any number of images, ranks or threads.

A matrix product uses another kernel, with another order of sums, if it has few rows or more threads: MKL's differs up to
3 rows, and for 6 rows between one thread and two; oneDNN's (``models/linear.py``) for one row. So each part of a set is computed at once,
on one thread (``reproducible``). With another ``batch`` a device may still sum in another order; single values may then change by one gray level.
"""

import json

import torch
from torch import Tensor

from ditscale import randomness
from ditscale.config import RunConfig, SamplingConfig
from ditscale.cost.runs import run_card
from ditscale.device import reproducible
from ditscale.diffusion.formulation import make_formulation
from ditscale.diffusion.guidance import Guided
from ditscale.diffusion.nfe import forwards, sampling_of
from ditscale.diffusion.samplers import sample
from ditscale.evaluation.best_guidance import interval_words
from ditscale.evaluation.sampling.decoder import make_decoder
from ditscale.evaluation.sampling.guide import find_guide
from ditscale.evaluation.sampling.model import compiles, frozen_model

FEWEST = 16                                                                    # minimum of images computed together, if ``batch`` allows
QUANTISE = {"nearest": "floor(clamp(127.5 x + 128, 0, 255))", "floor": "floor(clamp(127.5 (x + 1), 0, 255))"}


class ImageMaker:
    """Makes image i of a set as a function of only (weights, settings, seed, i).

    Attributes:
        forwards: forward passes of the model per image; those of a guide count by its FLOPs.
        image_channels: channels of the images: those of the data, or of decoded latents.
        nan_images: positions of images with values that are not finite, since the last ``load``. These values became 0.

    Raises:
        UserError: the settings do not fit the run, or its latents cannot be decoded.
    """

    def __init__(self, config: RunConfig, settings: SamplingConfig, device):
        settings.check(config)
        self.config, self.settings, self.device = config, settings, torch.device(device)
        self.formulation, self.sampling = make_formulation(config.formulation), sampling_of(settings)
        self.guide = find_guide(settings.guide, config, settings.average) if settings.guide else None
        self.guided: Guided | None = None
        self.guide_by(settings.guidance_scale, settings.guidance_interval)
        self.decoder = make_decoder(config.data, settings.vae, self.device, config.imported)
        self.image_channels = self.decoder.channels if self.decoder else config.data.channels
        self.nan_images: list[int] = []

    def guide_by(self, scale: float, interval: tuple[float, float] | None) -> None:
        """Guide with this scale, at these noise levels, from now on, in place of the settings'."""
        self.scale, self.interval = scale, interval
        self.forwards: float = forwards(self.formulation, self.sampling, scale, interval)
        if self.guide:                                                         # its passes count by its FLOPs
            own, guided = self.sampling.evaluations, self.forwards - self.sampling.evaluations
            self.forwards = own + guided * run_card(self.guide.config).flops / run_card(self.config).flops
        if self.guided:
            self.guided = self._guided(self.guided.model, self.guided.other)

    @property
    def flops(self) -> int:
        """FLOPs of the model, and of a guide, for one image."""
        return round(run_card(self.config).flops * self.forwards)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take these weights, by parameter name. A compiled model is compiled at its first images.

        Raises:
            UserError: they do not fit the run's model.
        """
        self.guided = self._guided(frozen_model(self.config, weights, self.device), self.guide.model(self.device) if self.guide else None)
        self.nan_images = []

    def _guided(self, model, guide) -> Guided:
        settings = self.settings
        return Guided(model, self.scale, self.config.data.classes, channels=settings.guidance_channels, interval=self.interval,
                      schedule=settings.guidance_schedule, power=settings.guidance_power, noise_share=self.formulation.noise_share, guide=guide)

    def unload(self) -> None:
        """Frees the model's memory until the next ``load``."""
        self.guided = None

    def make(self, positions: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """The images of a seed at ``positions`` (N,), computed together, and their labels.

        Returns uint8 (N, C, H, W) and int64 (N,), both on the CPU.
        """
        assert self.guided, "load weights first"
        count, positions = len(positions), self._filled(positions).to(self.device)
        with reproducible():
            images, labels = self._images(positions, seed)
        broken = ~torch.isfinite(images[:count]).flatten(1).all(dim=1)
        self.nan_images += positions[:count][broken.to(positions.device)].tolist()
        return to_uint8(images[:count], self.settings.rounding).cpu(), labels[:count].cpu()

    def _filled(self, positions: Tensor) -> Tensor:
        """``positions`` (N,), followed by those that a larger set has there.

        Parts after the first are filled to ``batch``; for a compiled model the first too, as another shape would be compiled again; else a set
        smaller than ``batch`` takes at most ``FEWEST`` images.
        """
        if not len(positions):                                                 # a rank without a share of a small set
            return positions
        batch = self.settings.batch
        whole = (positions[0] >= batch or compiles(self.config, self.device))
        missing = (batch if whole else min(batch, FEWEST)) - len(positions)
        return torch.cat([positions, positions[-1:] + 1 + torch.arange(missing)]) if missing > 0 else positions

    def _images(self, positions: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] (N, C, H, W) and labels (N,)."""
        data = self.config.data
        labels, shape = self.labels(positions, seed), (data.channels, data.resolution, data.resolution)
        noise = randomness.draw(seed, positions, {"sampling noise": randomness.Normal(shape)})["sampling noise"]
        images = self.from_noise(noise, labels, seed, positions)
        return (self.decoder(images) if self.decoder else images), labels

    def from_noise(self, noise: Tensor, labels: Tensor, seed: int, positions: Tensor) -> Tensor:
        """What the model makes of ``noise`` (N, C, S, S), as the settings say: pixels, or latents that are not decoded yet."""
        return sample(self.guided, self.formulation, noise, labels, seed=seed, positions=positions, **vars(self.sampling))

    def labels(self, positions: Tensor, seed: int) -> Tensor:
        """The classes of images: int64, with the shape of ``positions`` (N,)."""
        kind, classes = self.settings.labels, self.config.data.classes
        if kind == "balanced":
            return positions % classes
        if kind == "random":
            drawn = randomness.draw(seed, positions, {"sampling label": randomness.Uniform()})["sampling label"][:, 0]
            return randomness.whole(drawn, classes)
        return torch.full_like(positions, kind)

    def passport(self) -> dict:
        """The fields of ``Passport`` on how images are made."""
        settings, power = self.settings, self.settings.guidance_schedule == "power_cosine"
        options = self.sampling.options(self.formulation)
        return {"labels": f"class {settings.labels}" if isinstance(settings.labels, int) else settings.labels,
                "formulation": self.formulation.name, "sampler": settings.sampler,
                "sampling_steps": settings.sampling_steps, "nfe": self.sampling.evaluations,
                "guidance_scale": self.scale, "guidance_channels": settings.guidance_channels, "guidance_interval": interval_words(self.interval),
                "decoder": self.decoder.name if self.decoder else "none", "quantise": QUANTISE[settings.rounding],
                "guidance_schedule": settings.guidance_schedule + (f" {settings.guidance_power:g}" if power else ""),
                "sampler_options": json.dumps(options, sort_keys=True) if options else "", "guide": self.guide.name if self.guide else "",
                **average_of(self.config, settings.average)}


def average_of(config: RunConfig, name: str) -> dict:
    """What the passport says of the weights' average; of imported weights it is not known."""
    return {"average": "imported"} if config.imported else averaged(name, config.train.ema_decay)


def averaged(name: str, main_decay: float) -> dict:
    """The passport's fields for averaged weights: their decay per step, their length, or neither."""
    kind, _, value = name.rpartition("-")
    if name == "ema" or kind == "ema-decay":
        return {"ema_decay": main_decay if name == "ema" else float(value)}
    return {"average": f"length {value}" if kind else name}


def sample_parts(maker: ImageMaker, positions: Tensor, seed: int):
    """Yields (positions, images, labels) batch by batch, as from ``make``; nothing is kept and nothing is written to disk."""
    for part in positions.split(maker.settings.batch):
        yield part, *maker.make(part, seed)


def to_uint8(images: Tensor, rounding: str = "nearest") -> Tensor:
    """[-1, 1] to 0..255 by a rule of ``QUANTISE``: DiT's, SiT's and EDM2's, or that of ADM, MDT, MaskDiT and REPA, with images that are
    half a gray level darker. NaN becomes 0."""
    scaled = 127.5 * images + 128 if rounding == "nearest" else 127.5 * (images + 1)
    return scaled.nan_to_num(0.0).clamp(0, 255).to(torch.uint8)
