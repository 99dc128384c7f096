"""Makes a run directory from weights that another project trained, to be sampled, scored and exported like any run.

run.json has what the weights and the project's code determine. It omits what neither does (images seen, training cost, the decay of
the average), and no study's table includes such a run.
"""

import math
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ditscale
from ditscale.config import RunConfig, SamplingConfig, resolve
from ditscale.cost.runs import run_card
from ditscale.diffusion.nfe import without_others
from ditscale.digest import file_sha256
from ditscale.dotted import set_key
from ditscale.errors import UserError, count, did_you_mean
from ditscale.formats import STATE, stamped
from ditscale.models.convert import CONFIG_KEY, OUTPUTS_KEY, RUN_KEY
from ditscale.models.peers import LATENT_CHANNELS, LATENT_SCALE, LIKES, Translated
from ditscale.models.peers.recognize import number_of_heads, recognize, stated_path
from ditscale.models.sizes import Size, name_of
from ditscale.models.weights_file import WeightsFile, read_weights
from ditscale.objectives import BASELINE
from ditscale.objectives.from_config import inference_model
from ditscale.rundir import DONE, RunDir, write_json
from ditscale.tensorfile import write_verified
from ditscale.training.checkpoint.folders import images_of, new_folder
from ditscale.training.checkpoint.weights import check_weights
from ditscale.training.ema.profiles import MAIN

UNSTATED: dict[str, Any] = {"train": True, "resources": True, "seed": True, "data": {"name", "path"}}  # keys of a config that are not known
WORDS = ("model", "path_type", "prediction", "enc_type", "vae")                # a training script's arguments in words that are kept
PIXELS = (1, 3)                                                                # channels of images


@dataclass(frozen=True)
class Asked:
    """The user's statements about a weights file; None: determined by the file.

    Attributes:
        like: whose weights they are, a name of ``LIKES``.
        part: the state dict to use, of several.
        options: of that project's translation: ``decoder_depth``, ``decoder_heads``.
        changes: dotted keys of the config, and keys of ``SamplingConfig``, with their values.
    """

    like: str | None = None
    heads: int | None = None
    classes: int | None = None
    images_seen: int | None = None
    part: str | None = None
    options: dict[str, int] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """Weights under ditscale's names, the config of a run that has them, and what to report about them."""

    weights: dict[str, Tensor]                                                 # fp32, by name
    config: RunConfig
    facts: dict[str, Any]                                                      # for run.json
    lines: list[str]                                                           # for the user


def read_import(path, asked: Asked, command: str) -> Imported:
    """The weights in a file as those of a run.

    Args:
        command: what the user typed, for messages that suggest an addition.

    Raises:
        UserError: the file cannot be read, its project is neither given nor recognized, or an option does not fit it.
    """
    file, source = read_weights(path, asked.part), str(path)
    _refuse_own(Path(path), file)
    like, like_by = recognize(source, file.state, file.args, asked.like, command)
    peer = LIKES[like]
    if wrong := [name for name in asked.options if name not in peer.options]:
        raise UserError(f"--{wrong[0].replace('_', '-')} is not for weights of {peer.title}, which tell it or have none")
    heads, heads_by = number_of_heads(source, file.state, file.args, asked.heads)
    try:
        translated = _with_classes(peer.translate(file.state, heads, **asked.options), _classes(asked, file))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if odd := [name for name, value in translated.weights.items() if not value.is_floating_point()]:
        raise UserError(f"{source}: {odd[0]} is {str(translated.weights[odd[0]].dtype).removeprefix('torch.')}; floating-point weights are needed")
    values = _values(source, like, translated, asked, stated_path(source, like, file.args))
    config = resolve(values, source)
    weights = {name: value.detach().float().contiguous().clone() for name, value in translated.weights.items()}
    if bad := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise UserError(f"{source}: {bad[0]} (and {len(bad) - 1} more) has values that are not finite numbers: this training had diverged")
    with torch.device("meta"):                                                 # names and shapes, without the numbers
        check_weights(inference_model(config), weights, config)
    facts = {"like": like, "like_by": like_by, "heads_by": heads_by, "file": Path(path).name, "file_sha256": file_sha256(Path(path)),
             **{f"{name}_by": "as asked" if name in asked.options else "assumed" for name in peer.options},
             "part": file.part or None, "is_average": file.is_average, "sampling_source": peer.source, "changed": list(asked.changes),
             "script": {name: value for name, value in file.args.items() if _is_kept(name, value)},
             "ditscale_version": ditscale.__version__}
    return Imported(weights, config, facts, _lines(config, facts, heads))


def write_run(imported: Imported, out) -> RunDir:
    """Write the run directory; it is written completely or not at all.

    Raises:
        UserError: ``out`` exists already, or cannot be written.
    """
    out, seen = Path(out), imported.config.imported.images_seen
    if out.exists():
        raise UserError(f"{out} already exists; give another name")
    aside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        run = RunDir(aside)
        card = run_card(imported.config)
        run.create({"run_id": out.name, "imported": imported.facts,
                    "config": imported.config.model_dump(mode="json", exclude=UNSTATED),
                    "cost": {"parameters": card.parameters, "inference_parameters": card.inference_parameters, "tokens": card.tokens,
                             "macs": card.macs, "macs_by_part": asdict(card)["macs_by_part"]}})
        with new_folder(run, seen or 0) as folder:
            sha256 = write_verified(folder / f"{MAIN}.safetensors", imported.weights)
            write_json(folder / "state.json", stamped(STATE, {"images_seen": seen, "sha256": {f"{MAIN}.safetensors": sha256}}))
        run.set_status(DONE, images_seen=seen or 0, reason="imported weights" + ("" if seen is not None else ": images seen are not known"))
        os.rename(aside, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return RunDir(out)


def images_known(config: RunConfig, checkpoint: Path) -> int | None:
    """The images seen at a checkpoint; None for imported weights if it was not stated."""
    return None if config.imported and config.imported.images_seen is None else images_of(checkpoint)


def _refuse_own(path: Path, file: WeightsFile) -> None:
    """Refuses ditscale's own weights: their time and outputs are those of their run, not of a project in ``LIKES``."""
    if (path.parent / "state.json").exists() and path.absolute().parent.parent.name == "checkpoints":
        raise UserError(f"{path}: a file of a ditscale checkpoint; give its run, {path.absolute().parents[2]}")
    if RUN_KEY in file.header:
        raise UserError(f"{path}: exported by ditscale from a run; give that run's directory, which has its sampling settings")
    if OUTPUTS_KEY in file.header:
        raise UserError(f"{path}: written by ditscale; its time and outputs are no longer a project's ({file.header[OUTPUTS_KEY][:80]}); give the "
                        "file that was converted, or the directory of the run that was exported")
    if CONFIG_KEY in file.header:
        raise UserError(f"{path}: written by `ditscale convert`, and it does not say whose time and outputs it has; give the file that was "
                        "converted (a folder of diffusers: convert it to FILE.pt)")


def _is_kept(name: str, value) -> bool:
    """Numbers, and a few of the texts: others are paths on someone's machine."""
    return name in WORDS and isinstance(value, str) or isinstance(value, (int, float)) and math.isfinite(value)


def _classes(asked: Asked, file: WeightsFile) -> int | None:
    stated = file.args.get("num_classes")
    return asked.classes if asked.classes is not None else stated if type(stated) is int else None


def _with_classes(translated: Translated, classes: int | None) -> Translated:
    """The last row of the label table is the null class, unless --classes states as many classes as rows."""
    found = translated.model["num_classes"]
    if classes is None or classes == found:
        return translated
    if classes != found + 1 or translated.model.get("null_class") == "zero":
        raise UserError(f"the label table is for {count(found, 'class', 'classes')} and a null class, or {found + 1} classes without one; not for {classes}")
    return translated._replace(model={**translated.model, "num_classes": classes, "class_dropout_prob": 0.0})


def _values(source: str, like: str, translated: Translated, asked: Asked, path: dict[str, str]) -> dict:
    """The config's values, without what is not known."""
    model, changes = translated.model, {**translated.config, **path, **asked.changes}
    sampling = without_others(LIKES[like].sampling, {key.removeprefix("imported.sampling."): value for key, value in asked.changes.items()})
    if model["class_dropout_prob"] == 0:
        sampling.pop("guidance_scale", None)                                   # there is no unconditional model to guide with
    name = name_of(Size(model["depth"], model["hidden_size"], model["num_heads"]), model["patch_size"])
    latents = model["in_channels"] not in PIXELS or "data.latent_scale" in asked.changes
    values: dict = {"model": {"name": name, "class_dropout_prob": model["class_dropout_prob"]},
                    "data": {"resolution": model["input_size"], "channels": model["in_channels"], "classes": model["num_classes"]},
                    "objective": {"name": BASELINE},
                    "imported": {"like": like, "images_seen": asked.images_seen, "latents": latents, "sampling": sampling}}
    if latents and model["in_channels"] == LATENT_CHANNELS:
        values["data"] |= {"latent_scale": [LATENT_SCALE], "latent_shift": [0.0]}
    for key, value in changes.items():
        if "." not in key and key not in SamplingConfig.model_fields:
            raise UserError(f"'{key}' is not a key of sampling{did_you_mean(key, SamplingConfig.model_fields)}; give one of them, or a key "
                            "of the config as formulation.interpolant")
        set_key(values, key if "." in key else f"imported.sampling.{key}", value)
    if latents and not {"latent_scale", "latent_shift"} <= values["data"].keys():
        raise UserError(f"{source}: makes latents of {model['in_channels']} channels, whose scale the weights do not have; add "
                        "data.latent_scale=NUMBER data.latent_shift=NUMBER")
    return values


def _decoder(config: RunConfig, facts: dict) -> list[str]:
    """The decoder's settings that are not in the weights, and whether they were given."""
    return [f"decoder: {getattr(config.objective, name)} {'blocks' if name == 'decoder_depth' else 'heads'} ({facts[f'{name}_by']}"
            + (f", as the published model has; the weights do not tell: import-run --{name.replace('_', '-')} N)" if facts[f"{name}_by"] == "assumed" else ")")
            for name in LIKES[facts["like"]].options]


def _lines(config: RunConfig, facts: dict, heads: int) -> list[str]:
    """Lines with what was found, and what was taken from the project's code."""
    data, sampling, formulation = config.data, config.imported.sampling, config.formulation
    what = {True: "averaged weights", False: "the last weights: the file holds no average", None: "one set of weights, averaged or not"}
    time = next((key for key in ("time_scale", "c_noise_scale") if hasattr(formulation, key)), None)
    stated = formulation.model_dump(exclude_defaults=True, exclude={"name"})
    options = "".join(f", {name} {value:g}" if isinstance(value, float) else f", {name} {value}" for name, value in stated.items())
    chosen = sampling.model_dump(mode="json", exclude_defaults=True, exclude={"sampler", "sampling_steps"})
    seen = config.imported.images_seen
    return [f"{LIKES[facts['like']].title} ({facts['like_by']}): {config.model.name}, {heads} heads ({facts['heads_by']}), {what[facts['is_average']]}",
            f"formulation: {formulation.name}{options}" + ("" if time else ", timesteps 0 to 999")
            + (f"; the network is given {'t' if time == 'time_scale' else 'ln(sigma) / 4'} itself" if time and getattr(formulation, time) == 1 else ""),
            *_decoder(config, facts),
            f"classes: {data.classes:,}" + (", and none for guidance" if config.model.class_dropout_prob == 0 else " and the null class"),
            f"makes {'latents' if config.imported.latents else 'pixels'}: {data.channels} x {data.resolution} x {data.resolution}"
            + (f", scale {data.latent_scale[0]:g}, shift {data.latent_shift[0]:g}; to decode them give vae=FOLDER (released models: "
               "stabilityai/sd-vae-ft-ema)" if config.imported.latents else ""),
            f"sampling: {sampling.sampler}, {sampling.sampling_steps} steps" + "".join(f", {key} {value}" for key, value in chosen.items())
            + f" ({facts['sampling_source']}" + (f"; as given: {', '.join(facts['changed'])})" if facts["changed"] else ")"),
            f"images seen: {f'{seen:,}, as given' if seen is not None else 'unknown (set with --images-seen N)'}; training cost: unknown"]
