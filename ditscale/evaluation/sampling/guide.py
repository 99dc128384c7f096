"""A smaller or earlier model of the study as the guide: autoguidance (arXiv 2406.02507), ``guide + scale (model - guide)``, both with the label."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ditscale.config import RunConfig
from ditscale.errors import UserError
from ditscale.evaluation.sampling.model import frozen_model, weights_at
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.checkpoint import images_of
from ditscale.training.checkpoint.weights import pick_checkpoint, run_config

SAME = ("name", "resolution", "channels", "classes", "latent_scale", "latent_shift")       # keys of the section data


@dataclass(frozen=True)
class Guide:
    """A run's checkpoint that guides. ``name`` is for the passport: ``RUN-ID@IMAGES AVERAGE``."""

    run: RunDir
    checkpoint: Path
    average: str
    config: RunConfig

    @property
    def name(self) -> str:
        return f"{self.run.run_id}@{images_of(self.checkpoint)} {self.average}"

    def model(self, device: torch.device) -> Callable[..., Tensor]:
        """The guide's model with its weights, without gradients."""
        return frozen_model(self.config, weights_at(self.run, self.checkpoint, self.average), device)


def run_and_images(text: str) -> tuple[Path, int | None]:
    """The folder of ``RUN`` or ``RUN@IMAGES``, and the number of images seen, if it is given. Raises UserError for another form."""
    path, _, images = text.rpartition("@") if "@" in text else (text, "", "")
    if images and not images.isdigit():
        raise UserError(f"evaluation.guide '{text}': '{images}' is no number of images seen; give RUN or RUN@IMAGES")
    return Path(path), int(images) if images else None


def check_other(guide: Guide, checkpoint: Path) -> None:
    """Raises UserError if the guide is the checkpoint that it would guide."""
    if guide.checkpoint.resolve() == checkpoint.resolve():
        raise UserError(f"evaluation.guide {guide.run.path}@{images_of(checkpoint)} is the checkpoint that it would guide, so guidance would change nothing; "
                        "give another run, or an earlier checkpoint as RUN@IMAGES")


def find_guide(text: str, config: RunConfig, average: str) -> Guide:
    """The guide of ``RUN`` or ``RUN@IMAGES`` for a run, with the same weight average.

    Raises:
        UserError: there is no such run, checkpoint or average, or it is not a model of the same images under the same formulation.
    """
    path, images = run_and_images(text)
    run = RunDir(path)
    if not run.record.is_file():
        raise UserError(f"evaluation.guide '{text}': {path} is no run (it has no run.json); give the folder of a run, and @IMAGES for an earlier checkpoint")
    other = run_config(run)
    for key in SAME:
        own, its = getattr(config.data, key), getattr(other.data, key)
        if own != its and not (key == "name" and (config.imported or other.imported)):
            raise UserError(f"evaluation.guide '{text}' was trained with data.{key} {its}, and this run with {own}: a guide makes the same images")
    if other.formulation != config.formulation:
        raise UserError(f"evaluation.guide '{text}' has another formulation ({other.formulation.name}, or other options of {config.formulation.name}): "
                        "its output means something else")
    return Guide(run, pick_checkpoint(run, images, average), average, other)
