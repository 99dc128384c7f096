"""Loads weights from a run: a saved average, or one of any length rebuilt from the tracks (EDM2, Sec. 3)."""

import json
import warnings
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from ditscale.config import PARAMETRIZATION, RunConfig, resolve
from ditscale.data.manifest import manifest_path
from ditscale.errors import UserError
from ditscale.models.convert import RUN_KEY, save_model
from ditscale.models.parametrization import fold
from ditscale.objectives.from_config import inference_model
from ditscale.rundir import RunDir
from ditscale.tensorfile import save_tensors
from ditscale.training.checkpoint.checkpoint import average_file, images_of, list_checkpoints, load_ema
from ditscale.training.checkpoint.whole import damage, was_saved
from ditscale.training.ema.profiles import LONGEST, MAIN, Profile, combine, gamma_of, track_name
from ditscale.writing import check_writable

ENOUGH = 0.12                                                                  # largest acceptable relative error of a profile


class NoSuchAverage(UserError):
    """A checkpoint has no file of that name; the message lists its files."""


def pick_checkpoint(run: RunDir, images: int | None, average: str = MAIN) -> Path:
    """The checkpoint at this number of images seen; for None the newest with an undamaged ``average``. Later ones, which
    are damaged, are skipped with a warning.

    Raises:
        UserError: there is none; the message lists the existing ones.
    """
    found = {images_of(path): path for path in list_checkpoints(run)}
    if not found:
        raise UserError(f"{run.path} has no checkpoint yet")
    if images is not None:
        if images not in found:
            raise UserError(f"{run.path} has no checkpoint at {images} images; it has {', '.join(map(str, found))}")
        return found[images]                                                   # if it is damaged, loading refuses it
    for checkpoint in reversed(found.values()):
        if not is_passed_over(checkpoint, average):
            return checkpoint
    raise UserError(f"{run.path} has no checkpoint with an undamaged {average}; continue training, or choose another average")


def is_passed_over(checkpoint: Path, average: str) -> bool:
    """Whether the file of an average is damaged or missing; warns if it is."""
    file = average_file(average)
    problem = damage(checkpoint, [file]) if was_saved(checkpoint, file) else ""
    if problem:
        warnings.warn(f"checkpoint {checkpoint} is skipped: {problem}", stacklevel=2)
    return bool(problem)


def saved_average(run: RunDir, checkpoint: Path, name: str) -> dict[str, Tensor]:
    """An average's weights by name, as saved.

    Raises:
        NoSuchAverage: the checkpoint has no such file.
        UserError: the file is damaged.
    """
    if not was_saved(checkpoint, average_file(name)):
        names = sorted(path.stem for path in checkpoint.glob("*.safetensors") if path.stem.startswith(("ema", "masters")))
        raise NoSuchAverage(f"{checkpoint} has no {name}; it has {', '.join(names)}")
    if problem := damage(checkpoint, [average_file(name)]):
        others = ", ".join(str(images_of(path)) for path in list_checkpoints(run) if path != checkpoint)
        raise UserError(f"{checkpoint} is damaged: {problem}; " + (f"other checkpoints are at {others} images" if others else
                                                                   "the run has no other checkpoint"))
    return load_ema(checkpoint, name)


def load_into(model, weights: dict[str, Tensor], config: RunConfig) -> None:
    """Loads weights by name into a model built from a run's config. Raises UserError as ``check_weights``."""
    check_weights(model, weights, config)
    model.load_state_dict(weights, strict=False)                               # the position embedding is not a parameter


def check_weights(model, weights: dict[str, Tensor], config: RunConfig) -> None:
    """Whether weights are those of a model built from a run's config; it may be on the meta device.

    Raises:
        UserError: a parameter is missing or has another shape: run.json and the checkpoint belong to different models.
    """
    is_what = f"the weights are not those of {config.model.name} as {config.objective.name}"
    absent = [name for name, _ in model.named_parameters() if name not in weights]
    if absent:
        raise UserError(f"{is_what}: {absent[0]} and {len(absent) - 1} more are missing")
    for name, parameter in model.named_parameters():
        if weights[name].shape != parameter.shape:
            raise UserError(f"{is_what}: {name} has shape {tuple(weights[name].shape)}, not {tuple(parameter.shape)}")


def rebuild(run: RunDir, length: float, images: int) -> tuple[dict[str, Tensor], float]:
    """The average of relative length ``length`` at ``images``, from all snapshots of the run's tracks up to there; and the relative
    error of its profile.

    Raises:
        UserError: no tracks were kept, the length has no profile, or the kept tracks cannot give it.
    """
    lengths = run_config(run).train.ema_lengths
    if not lengths:
        raise UserError(f"{run.path} kept no tracks; train with train.ema_lengths=[0.05, 0.1] to rebuild other lengths later")
    if not 0 < length < LONGEST:
        raise UserError(f"--length {length} has no profile; give a length above 0 and below {LONGEST:.3f}")
    snapshots = [(path, track) for path in list_checkpoints(run) if images_of(path) <= images for track in lengths
                 if was_saved(path, average_file(track_name(track))) and not is_passed_over(path, track_name(track))]
    if not snapshots:
        raise UserError(f"{run.path} has no snapshot of its tracks up to {images} images")
    weights, missed = combine([Profile(images_of(path), gamma_of(track)) for path, track in snapshots],
                              Profile(images, gamma_of(length)))
    if missed > ENOUGH:
        raise UserError(f"a length of {length} at {images} images cannot be rebuilt: its profile has an error of {missed:.0%} with "
                        f"{len(snapshots)} snapshots of the lengths {', '.join(map(str, lengths))}; choose a length between "
                        "them, or checkpoints closer together (train.checkpoint_every_images)")
    return _weighted_sum(snapshots, weights), missed


def _weighted_sum(snapshots: list[tuple[Path, float]], weights: np.ndarray) -> dict[str, Tensor]:
    """Combines snapshots in float64, as the coefficients have both signs; one snapshot in memory at a time."""
    total: dict[str, Tensor] = {}
    for (path, track), weight in zip(snapshots, weights, strict=True):
        with safe_open(path / average_file(track_name(track)), framework="pt") as file:
            for name in file.keys():
                part = file.get_tensor(name).double() * float(weight)
                total[name] = total[name] + part if name in total else part
    return {name: value.float() for name, value in total.items()}


def check_new(target: Path) -> None:
    """Raises UserError if the target exists or cannot be written."""
    if target.exists():
        raise UserError(f"{target} already exists; give another name")
    check_writable(target)


def write_weights(run: RunDir, weights: dict[str, Tensor], target: Path, origin: dict, config: dict | None = None) -> int:
    """Writes weights for inference, with their origin in the file's header; returns the number of parameters.

    Training-only parts are left out. A baseline's file can be read by ``ditscale convert``. Scales of muP and CompleteP are in the weights, as of a
    standard model, which the header's config then says.

    Args:
        config: for the header, in place of the run's own with its paths.

    Raises:
        UserError: the target exists or its folder does not.
        OSError, SafetensorError: it cannot be written, see ``writing.written_whole``.
    """
    check_new(target)
    own = run_config(run)
    model = inference_model(own)
    load_into(model, weights, own)
    fold(model)
    header = {RUN_KEY: json.dumps(as_folded(config or run.read_record()["config"])), **{key: str(value) for key, value in origin.items()}}
    if own.objective.plain_dit:
        save_model(model, target, header)
        return sum(p.numel() for p in model.parameters())
    kept = {name: p for name, p in model.state_dict().items() if name in weights and name.split(".")[0] not in model.training_only}
    save_tensors({name: p.contiguous() for name, p in kept.items()}, target, header)
    return sum(p.numel() for p in kept.values())


def as_folded(config: dict) -> dict:
    """A run's config as values, for weights after ``fold``."""
    return {**config, "model": {key: value for key, value in config["model"].items() if key not in PARAMETRIZATION}}


def run_config(run: RunDir) -> RunConfig:
    """The config of a run. Where neither its data nor their manifest is at hand, ``data.path`` leads to the run's own copy of the latter."""
    config = resolve(run.read_record()["config"], str(run.record))
    path = Path(config.data.path)
    if config.imported or path.exists() or manifest_path(path).exists() or not run.manifest.exists():
        return config
    return with_data(config, run.manifest.with_suffix(path.suffix or ".beton"))


def with_data(config: RunConfig, path) -> RunConfig:
    """The config with another ``data.path``."""
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})
