"""The model card of an exported run: what the model is, how it was trained, what that cost, and its scores with their passports.

It has no path and no host name, as it is meant to be published.
"""

import json
from collections.abc import Collection
from pathlib import Path

import yaml

from ditscale.config import RunConfig
from ditscale.cost.runs import run_card, training_flops
from ditscale.evaluation.passport import SEED, digest
from ditscale.models.peers import LIKES
from ditscale.rundir import EVALUATION, RunDir, read_lines
from ditscale.training.checkpoint.import_weights import images_known

FOLDER = "path/to/this/folder"                                                 # in examples
FREQUENCIES = """for block in {model}.transformer_blocks:                 # DiT's frequencies, which diffusers does not store
    block.norm1.emb.time_proj.downscale_freq_shift = 0"""


def public_config(config: RunConfig) -> dict:
    """The settings that decide the run's result, without resources and paths; for imported weights, the known ones."""
    values = config.science()
    if config.imported:
        values.pop("train", None)
        values["data"].pop("name", None)
        values["imported"].get("sampling", {}).pop("vae", None)
    return values


def model_card(run: RunDir, config: RunConfig, checkpoint: Path, average: str, form: str, notes: list[str], parts: Collection[str] = ()) -> str:
    """Markdown with the hub's header.

    Args:
        parts: names of the existing files and folders of diffusers' format.
    """
    seen = images_known(config, checkpoint)
    sections = [_header(form), f"# {run.run_id}", _what(config), *_bullets(notes), "## Use", _use(form, parts),
             "## Training", _training(run, config, average, seen), "## Cost", _cost(run, config, seen),
             "## Scores", _scores(run, seen), "## Configuration",
             "```yaml\n" + yaml.safe_dump(public_config(config), sort_keys=False) + "```"]
    return "\n\n".join(part for part in sections if part) + "\n"


def _header(form: str) -> str:
    library = "library_name: diffusers\n" if form == "diffusers" else ""
    return f"---\n{library}tags:\n- diffusion-transformer\n- class-conditional-image-generation\n- ditscale\n---"


def _what(config: RunConfig) -> str:
    card, data = run_card(config), config.data
    return (f"A class-conditional diffusion transformer, {config.model.name}, for {data.classes:,} classes: "
            f"{data.channels} x {data.resolution} x {data.resolution} values, {card.inference_parameters:,} parameters, {card.tokens} tokens, "
            f"{card.macs / 1e9:.4g} GMACs for a forward of one image.")


def _bullets(notes: list[str]) -> list[str]:
    return ["\n".join(f"- {note}" for note in notes)] if notes else []


def _use(form: str, parts: Collection[str]) -> str:
    if form == "safetensors":
        return "Weights by ditscale's names in `model.safetensors`; `config.json` has the settings that build the model."
    if form == "released":
        return "`model.pt` is the state dict of the DiT repository's model: `model.load_state_dict(torch.load(\"model.pt\", weights_only=True))`."
    if "model_index.json" not in parts:
        load = ("from diffusers import DiTTransformer2DModel\n\n"
                f"model = DiTTransformer2DModel.from_pretrained(\"{FOLDER}\", subfolder=\"transformer\")\n" + FREQUENCIES.format(model="model"))
    elif "vae" in parts:
        load = f"from diffusers import DiTPipeline\n\npipe = DiTPipeline.from_pretrained(\"{FOLDER}\")\n" + FREQUENCIES.format(model="pipe.transformer")
    else:
        load = ("from diffusers import AutoencoderKL, DiTPipeline\n\n"
                "vae = AutoencoderKL.from_pretrained(\"path/to/autoencoder\")    # the one that made the latents\n"
                f"pipe = DiTPipeline.from_pretrained(\"{FOLDER}\", vae=vae)\n" + FREQUENCIES.format(model="pipe.transformer"))
    return f"```python\n{load}\n```"


def _training(run: RunDir, config: RunConfig, average: str, seen: int | None) -> str:
    if config.imported:
        facts = run.read_record().get("imported", {})
        return (f"By {LIKES[config.imported.like].title}'s code, not by ditscale: imported from `{facts.get('file', '?')}` "
                f"(sha256 {facts.get('file_sha256', '?')}). Images seen: {f'{seen:,}, as stated at the import' if seen is not None else 'not known'}.")
    train = config.train
    what = f"average {average}" + (f" (decay {train.ema_decay:g} a step)" if average == "ema" else "")
    return (f"With ditscale, as objective {config.objective.name} under formulation {config.formulation.name}, on {config.data.name}: {seen:,} images, "
            f"batch {train.global_batch}, {train.optimizer.name}, learning rate {train.lr:g}, {train.precision}. Weights: {what}.")


def _cost(run: RunDir, config: RunConfig, seen: int | None) -> str:
    if config.imported or seen is None:
        return "Of training: not known."
    lines = [line for line in read_lines(run.metrics) if line["images_seen"] <= seen and line.get("accelerator_hours") is not None]
    device = (run.read_record().get("environment") or {}).get("device")
    hours = f", {lines[-1]['accelerator_hours']:.4g} accelerator-hours{f' ({device})' if device else ''}" if lines else ""
    return f"Of training: {training_flops(config, seen):.4g} FLOPs (1 MAC = 2 FLOPs; the model's, counted by closed forms){hours}."


def _scores(run: RunDir, seen: int | None) -> str:
    """The newest line of each passport at this checkpoint, and the passports."""
    lines = [line for line in read_lines(run.evals, *EVALUATION) if line.get("images_seen") == seen]
    newest = {digest(line["passport"]): line for line in lines}
    if not newest:
        return "None measured."
    rows = [f"| {line['metric']} | {line['score']:.4g} | {_number(line.get('floor'))} | {line['passport'].get('samples', '')} | "
            f"{line['passport'].get('guidance_scale', '')} | {line['passport'].get(SEED, '')} | {name} |" for name, line in newest.items()]
    table = "\n".join(["| metric | score | floor | samples | guidance | seed | passport |", "| --- | ---: | ---: | ---: | ---: | ---: | --- |", *rows])
    passports = json.dumps({name: line["passport"] for name, line in newest.items()}, indent=2)
    return f"{table}\n\nScores are comparable if their passports agree:\n\n```json\n{passports}\n```"


def _number(value) -> str:
    return "" if value is None else f"{value:.4g}"
