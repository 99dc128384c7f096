"""Writes a run's weights for inference, as a file or as a folder with a model card: safetensors, the released DiT layout, or diffusers."""

import json
import shutil
from pathlib import Path

from torch import Tensor

from ditscale.config import RunConfig, SamplingConfig
from ditscale.data.vae import load_vae
from ditscale.diffusion.ddpm_options import DdpmConfig
from ditscale.errors import UserError, count
from ditscale.evaluation.model_card import model_card, public_config
from ditscale.evaluation.sampling.model import weights_at
from ditscale.models.convert import FACTS, outputs_of, save_model, to_diffusers, write_facts
from ditscale.models.dit import DiT
from ditscale.models.parametrization import fold
from ditscale.models.sizes import parse_model_name
from ditscale.objectives.from_config import inference_model
from ditscale.rundir import RunDir
from ditscale.training.checkpoint.weights import as_folded, check_new, load_into, pick_checkpoint, run_config, write_weights
from ditscale.writing import written_whole

SAFETENSORS, RELEASED, DIFFUSERS = "safetensors", "released", "diffusers"
FORMATS = {SAFETENSORS: ".safetensors", RELEASED: ".pt", DIFFUSERS: ""}        # and the suffix of a single file
CARD = "README.md"
PIPELINE_CLASSES = 1000                                                        # DiTPipeline is written for ImageNet's
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}                    # diffusers' names of our ddpm schedules


def export(run: RunDir, target, form: str | None = None, *, average: str = "ema", images: int | None = None,
           vae: str | None = None) -> list[str]:
    """Writes an average of a checkpoint; returns lines that describe what was written.

    Args:
        target: a file if its suffix is that of the format, else a folder with a model card.
        form: one of ``FORMATS``; default: by the suffix, else diffusers.
        average: ``ema``, ``masters``, ``length-0.07``, ...
        images: the checkpoint at this number; default: the newest.
        vae: for diffusers: the autoencoder to include, which makes the folder a complete pipeline.

    Raises:
        UserError: the format cannot hold the model, the target exists, or there is no such checkpoint.
    """
    target = Path(target)
    form = form or next((name for name, suffix in FORMATS.items() if suffix and target.suffix == suffix), DIFFUSERS)
    config = run_config(run)
    check_new(target)
    if vae and form != DIFFUSERS:
        raise UserError(f"--vae {vae} is for --format diffusers, which holds a pipeline; it is {form}")
    _check(config, form)
    checkpoint = pick_checkpoint(run, images, average)
    weights, origin = weights_at(run, checkpoint, average), {"checkpoint": checkpoint.name, "average": average}
    with written_whole(target) as aside:
        if form == SAFETENSORS and target.suffix == FORMATS[form]:
            count = write_weights(run, weights, aside, origin)
            return [f"{target}: {count:,} parameters, {average} of {checkpoint.name}"]
        if form == RELEASED and target.suffix == FORMATS[form]:
            save_model(_model(config, weights), aside, outputs_of(config.formulation.model_dump()))
            return [f"{target}: DiT's own state dict, {average} of {checkpoint.name}", *_other_outputs(config)]
        aside.mkdir()
        lines = _fill(run, config, weights, aside, form, origin, vae)
        (aside / CARD).write_text(model_card(run, config, checkpoint, average, form, lines, [path.name for path in aside.iterdir()]))
    return [f"{target}: {average} of {checkpoint.name}, with a model card", *lines]


def format_for(config: RunConfig) -> str:
    """The most widely supported format that can hold a run's model."""
    try:
        _check(config, DIFFUSERS)
    except UserError:
        return SAFETENSORS
    return DIFFUSERS


def _check(config: RunConfig, form: str) -> None:
    """Refuses a format that cannot hold the model, before anything is loaded."""
    if form == SAFETENSORS:
        return
    what = {RELEASED: "the released layout is a plain DiT's", DIFFUSERS: "diffusers has a plain adaLN-Zero DiT"}[form]
    if not config.objective.plain_dit and config.objective.model(parse_model_name(config.model.name).dims) != (DiT, {}):
        raise UserError(f"{what}, and this run's model is that of objective {config.objective.name}; --format safetensors holds it")
    if config.model.block != "adaln_zero" or config.model.switches.given:
        raise UserError(f"{what}, and this run's model has {config.model.switches.words or f'blocks {config.model.block}'}; "
                        "--format safetensors holds it")
    if form == DIFFUSERS and config.model.class_dropout_prob == 0:
        raise UserError(f"{what} with a null class, and this run's model has none (model.class_dropout_prob 0); --format safetensors or released holds it")


def _model(config: RunConfig, weights: dict[str, Tensor]) -> DiT:
    model = inference_model(config)
    load_into(model, weights, config)
    fold(model)
    return model.eval()


def _fill(run: RunDir, config: RunConfig, weights: dict[str, Tensor], folder: Path, form: str, origin: dict, vae: str | None) -> list[str]:
    """Writes a folder's files; returns lines with what users must know."""
    if form == SAFETENSORS:
        (folder / "config.json").write_text(json.dumps(as_folded(public_config(config)), indent=2) + "\n")
        write_weights(run, weights, folder / "model.safetensors", origin, config=public_config(config))
        return []
    model = _model(config, weights)
    if form == RELEASED:
        save_model(model, folder / "model.pt", outputs_of(config.formulation.model_dump()))
        return _other_outputs(config)
    to_diffusers(model).save_pretrained(folder / "transformer")
    reason = _why_no_pipeline(config)
    write_facts(folder / "transformer", _facts(config, reason))
    lines = ["diffusers' timestep frequencies differ from DiT's and are not stored: set them after loading (README.md, section Use)"]
    if reason and vae:
        raise UserError(f"--vae {vae}: there is no DiTPipeline of this run, as {reason}; leave it out for the transformer alone")
    if reason:
        return [*lines, f"the transformer alone: no DiTPipeline, as {reason}", f"transformer/{FACTS} has its formulation, time scale and sampler"]
    if config.data.classes != PIPELINE_CLASSES:
        lines.append(f"DiTPipeline's null class is always {PIPELINE_CLASSES}, this model's {config.data.classes}: call it with guidance_scale=1")
    return [*lines, _pipeline(config, folder, vae)]


def _other_outputs(config: RunConfig) -> list[str]:
    """Lines with what users of the released layout must know."""
    stated = outputs_of(config.formulation.model_dump())
    return [f"the layout is DiT's, but time and outputs are those of {words}: DiT's and SiT's samplers do not fit them" for words in stated.values()]


def _facts(config: RunConfig, reason: str) -> dict:
    """What a diffusers transformer's own files do not say: what its time and outputs are, and how the run samples.

    Args:
        reason: why no DiTPipeline makes its images; empty if one does.
    """
    stated = config.evaluation or (config.imported.sampling if config.imported else None)
    sampling = {name: getattr(stated, name) for name in SamplingConfig.model_fields if name not in ("vae", "batch", "guide")} if stated else None
    return outputs_of(config.formulation.model_dump()) | {
        "formulation": config.formulation.model_dump(mode="json"), "sampling": sampling,
        "diffusers": f"DiTTransformer2DModel alone; no DiTPipeline, as {reason}" if reason else "DiTPipeline"}


def _why_no_pipeline(config: RunConfig) -> str:
    """Why DiTPipeline would make different images; "" if it makes the same ones."""
    data = config.data
    if config.formulation.name != "ddpm":
        return f"its schedulers are of ddpm, not of formulation {config.formulation.name}"
    if data.channels in (1, 3) and not (config.imported and config.imported.latents):
        return f"it decodes latents, and this model seems to make pixels of {count(data.channels, 'channel')}"
    if any(data.latent_shift or ()) or len(data.latent_scale or (1,)) > 1:
        return "it knows one scale of latents, without a shift"
    return ""


def _pipeline(config: RunConfig, folder: Path, vae: str | None) -> str:
    """Writes the files of a ``DiTPipeline``; without ``vae``, users pass an autoencoder when they load it."""
    import diffusers

    assert isinstance(config.formulation, DdpmConfig)                          # see _why_no_pipeline
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, beta_schedule=BETAS[config.formulation.schedule],
                                        clip_sample=False, prediction_type="epsilon")
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"transformer": ["diffusers", "DiTTransformer2DModel"], "scheduler": ["diffusers", "DDIMScheduler"], "vae": [None, None]}
    scale = config.data.latent_scale
    said = "a DiTPipeline without an autoencoder: pass vae= when it is loaded" + (f", of scaling_factor {scale[0]:g}" if scale else "")
    if vae:
        model = load_vae(vae, "cpu").model
        if type(model).__name__ != "AutoencoderKL" or model.config.get("shift_factor"):
            raise UserError(f"--vae {vae}: DiTPipeline takes an AutoencoderKL without a shift_factor; leave it out and decode the latents yourself")
        if scale:
            model.register_to_config(scaling_factor=scale[0])
        model.save_pretrained(folder / "vae")
        parts["vae"], said = ["diffusers", "AutoencoderKL"], "a whole DiTPipeline"
    index = {"_class_name": "DiTPipeline", "_diffusers_version": diffusers.__version__, **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return said


def copy_to(folder: Path, target: Path) -> None:
    """Copies an exported folder to a place that does not exist yet."""
    with written_whole(target) as aside:
        shutil.copytree(folder, aside)
