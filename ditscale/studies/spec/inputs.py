"""Checks everything that a study reads and writes, before anything starts."""

import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from ditscale.config import DataConfig, RunConfig
from ditscale.data.manifest import read_manifest
from ditscale.errors import UserError
from ditscale.evaluation.metrics.names import EXTRACTORS, extractor_name
from ditscale.objectives.auxiliary.kind import Auxiliary
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.zero.strategy import deepspeed_config
from ditscale.writing import writing


def check_inputs(runs: list[PlannedRun]) -> None:
    """Raises UserError for the first file that is missing, damaged or has another shape."""
    _check_strategies(runs)
    for config in _distinct(runs, lambda config: (config.data, config.evaluation)):
        _check_files(config)
    for planned in runs:
        _check_guide(planned)
    for loss, config in _losses(runs):
        loss.check_inputs(config)


def check_plan(runs: list[PlannedRun]) -> None:
    """Raise UserError for the first run whose DeepSpeed JSON is wrong, or whose data or stored features are there and do not fit it.

    A file whose manifest agrees is not opened: a launch does that.
    """
    _check_strategies(runs)
    for data in dict.fromkeys(planned.config.data for planned in runs):
        if os.path.isfile(data.path) and not _manifest_agrees(data):
            from ditscale.data.beton import BetonFile  # numpy, which few plans need
            from ditscale.data.kinds import check_classes, check_shape, kind_of

            try:
                file = BetonFile(data.path)
                kind_of(file)
            except UserError:                                                  # reported at launch
                continue
            check_shape("data.path", file, data)
            check_classes("data.path", file, data)
    for loss, config in _losses(runs):
        loss.check_plan(config)


def _manifest_agrees(data: DataConfig) -> bool:
    """Whether a data file has a readable manifest with the section's classes, channels and size."""
    try:
        manifest = read_manifest(data.path)
    except UserError:                                                          # the file itself decides
        return False
    return manifest.classes == data.classes and manifest.shape == [data.channels, data.resolution, data.resolution]


def check_writable(folder: Path) -> None:
    """Raises UserError if runs cannot be created in a study's folder."""
    probe = folder / f".write-check-{os.getpid()}"
    with writing(f"the study folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


def _check_strategies(runs: list[PlannedRun]) -> None:
    for config in _distinct(runs, lambda config: (config.train, config.resources)):
        deepspeed_config(config, config.resources.accelerators_per_run)        # also depends on precision, batch and ranks


def _distinct(runs: list[PlannedRun], part: Callable[[RunConfig], Hashable]) -> Iterable[RunConfig]:
    """The first config for each value of a part of it."""
    found: dict[Hashable, RunConfig] = {}
    for planned in runs:
        found.setdefault(part(planned.config), planned.config)
    return found.values()


def _losses(runs: list[PlannedRun]) -> Iterable[tuple[Auxiliary, RunConfig]]:
    """The auxiliary losses of the runs, each once for the same options, data and tokens, with the first config that has it."""
    found: dict[Hashable, tuple[Auxiliary, RunConfig]] = {}
    for planned in runs:
        for loss in planned.config.objective.auxiliary:
            found.setdefault((loss.model_dump_json(), planned.config.data, planned.config.tokens), (loss, planned.config))
    return found.values()


def _check_guide(planned: PlannedRun) -> None:
    """Raises UserError if a run would be guided by its own checkpoint that is scored."""
    config, settings = planned.config, planned.config.evaluation
    if settings and settings.guide:
        from ditscale.evaluation.sampling.guide import run_and_images  # loads torch
        from ditscale.training.schedule import is_due

        path, images = run_and_images(settings.guide)
        if path.resolve() == planned.run.path.resolve() and (images is None or is_due(config, images)):
            raise UserError(f"evaluation.guide '{settings.guide}' is the run {planned.run_id} itself at a checkpoint that is scored, where guidance would "
                            "change nothing; give another run, or RUN@IMAGES that is not scored")


def _check_files(config: RunConfig) -> None:
    kind = _check_data("data.path", config.data.path, config)
    if config.evaluation:
        _check_evaluation(config, kind)


def _check_validation(config: RunConfig, kind: str, path: str) -> None:
    if (held_out := _check_data("evaluation.validation.path", path, config)) != kind:
        raise UserError(f"evaluation.validation.path: {path} holds {held_out}, but {config.data.path} holds {kind}")
    if os.path.samefile(path, config.data.path):
        raise UserError(f"evaluation.validation.path {path} is the file that the runs train on (data.path); give held-out images")


def _check_evaluation(config: RunConfig, kind: str) -> None:
    settings = config.evaluation
    if kind == "latents" and settings.vae is None:
        raise UserError(f"data.path: {config.data.path} holds latents, so samples must be decoded; give evaluation.vae, the "
                        "autoencoder that made them")
    if kind == "pixels" and settings.vae is not None:
        raise UserError(f"evaluation.vae decodes latents, but {config.data.path} holds pixels; leave it out")
    if not os.path.exists(settings.reference_path):
        raise UserError(f"evaluation.reference_path: {settings.reference_path} does not exist")
    if kind == "pixels" and settings.reference_path.endswith(".beton"):
        _check_data("evaluation.reference_path", settings.reference_path, config)
    if settings.guide:
        from ditscale.evaluation.sampling.guide import find_guide  # loads torch

        find_guide(settings.guide, config, settings.average)
    if settings.validation:
        _check_validation(config, kind, settings.validation.path)
    if extractor_name(settings.metric) not in EXTRACTORS:
        return                                                                 # a user-defined network may need no file
    if settings.extractor_path is None:
        raise UserError(f"evaluation.extractor_path is missing: the weights of the feature network of {settings.metric}")
    if not os.path.isfile(settings.extractor_path):
        raise UserError(f"evaluation.extractor_path: {settings.extractor_path} does not exist; "
                        "for the digits, `ditscale data build digits data/digits` makes it")


def _check_data(key: str, path: str, config: RunConfig) -> str:
    """The kind of the file's content, "pixels" or "latents"; it must match the config."""
    from ditscale.data.beton import BetonFile
    from ditscale.data.kinds import check_classes, check_data, kind_of

    try:
        file = BetonFile(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    check_data(key, file, config.data)
    if key == "data.path":                                                     # the classes of a reference do not matter
        check_classes(key, file, config.data)
    return kind_of(file)
