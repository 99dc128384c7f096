"""Checks of everything a study reads and writes, before anything starts."""

import os

from ditscale.config import RunConfig
from ditscale.data.beton import BetonFile
from ditscale.errors import UserError
from ditscale.studies.spec import PlannedRun
from ditscale.training.strategy import deepspeed_config


def check_inputs(runs: list[PlannedRun]) -> None:
    """Raise UserError for the first file that is missing, damaged or of another shape, or a folder that cannot be written."""
    seen = set()
    for planned in runs:
        config = planned.config
        files = (config.data.path, config.evaluation and config.evaluation.reference_path, config.evaluation and
                 config.evaluation.extractor_path, config.resources.deepspeed)
        if files not in seen:
            seen.add(files)
            _check_files(config)
    _check_writable(runs[0].run.path.parent)


def _check_files(config: RunConfig) -> None:
    _check_images("data.path", config.data.path, config)
    deepspeed_config(config, config.resources.accelerators_per_run)
    if config.evaluation:
        _check_images("evaluation.reference_path", config.evaluation.reference_path, config)
        if not os.path.isfile(config.evaluation.extractor_path):
            raise UserError(f"evaluation.extractor_path: {config.evaluation.extractor_path} does not exist; "
                            "for the digits, `ditscale data build digits data/digits` makes it")


def _check_images(key: str, path: str, config: RunConfig) -> None:
    try:
        file = BetonFile(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    wanted = (config.data.channels, config.data.resolution, config.data.resolution)
    stored = tuple(file.fields["image"].shape)
    if stored != wanted:
        raise UserError(f"{key}: {path} holds images of shape {stored}, but data.channels and data.resolution make {wanted}")


def _check_writable(folder) -> None:
    probe = folder / f".write-check-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"the study folder {folder} cannot be written: {error.strerror}") from None
