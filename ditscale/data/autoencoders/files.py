"""Finds an autoencoder: a folder, a pipeline's folder, one safetensors file, or a name on the Hugging Face hub. Nothing is unpickled.

A name is looked up on the hub only if no file or folder has it, and a line says so first. A path never is.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ditscale.data.autoencoders.hub import silenced, why_not
from ditscale.data.autoencoders.kinds import KINDS, class_of
from ditscale.data.autoencoders.ldm import is_ldm, ldm_config, ldm_renamed, read_tensors
from ditscale.errors import UserError

CONFIG, WEIGHTS, ENDING, INSIDE = "config.json", "diffusion_pytorch_model", ".safetensors", "vae"
HALF = "fp16"                                                                  # the variant in 16-bit floats: X.fp16.safetensors


def to_stderr(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def open_autoencoder(name: str, subfolder: str | None, say) -> tuple[torch.nn.Module, bool]:
    """The autoencoder in fp32, and whether its file states scale and shift.

    Args:
        name: a folder with config.json; a pipeline's, with the folder vae; a safetensors file; OWNER/NAME on the hub, or OWNER/NAME/FOLDER.
        subfolder: where it is in the first two or the last.
        say: prints a line before the hub is asked.

    Raises:
        UserError: there is none, it cannot be read completely, or its class is not in ``KINDS``.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if subfolder:
            raise UserError(f"--subfolder {subfolder}: --vae {name} is a file; leave it out")
        return _from_file(path)
    if subfolder:
        name, path = f"{name.rstrip('/')}/{subfolder.strip('/')}", path / subfolder
    if path.is_dir():
        return _from_folder(path), True
    if _is_path(name) or subfolder and path.parent.is_dir():
        raise UserError(f"--vae {name}: no such file or folder")
    return _from_hub(name, say), True


def _is_path(name: str) -> bool:
    """Whether a name can only be a local path: ./x, /x, ~/x, x.safetensors, or a file in an existing folder."""
    parts = Path(name).parts
    return name.startswith((".", "/", "~")) or name.endswith((ENDING, ".pt", ".pth", ".ckpt", ".bin")) or "\\" in name or \
        len(parts) > 2 and Path(*parts[:2]).is_dir()


def _from_folder(folder: Path) -> torch.nn.Module:
    if not (folder / CONFIG).is_file() and (folder / INSIDE / CONFIG).is_file():
        folder = folder / INSIDE
    if not (folder / CONFIG).is_file():
        raise UserError(f"--vae {folder}: no autoencoder that can be read; a folder with {CONFIG} and {WEIGHTS}{ENDING}, or a pipeline's with "
                        f"{INSIDE}/, would work")
    config, names = _local_config(folder / CONFIG), {entry.name for entry in folder.iterdir()}
    class_of(config, str(folder))
    there = [variant for variant, middle in ((None, ""), (HALF, f".{HALF}")) if _weights(middle) & names]
    if not there:
        pickled = next((one for one in sorted(names) if one.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
        why = f"{pickled} alone, which may hold code and is not read; save it with save_pretrained(..., safe_serialization=True)" if pickled else \
            f"no {WEIGHTS}{ENDING}"
        raise UserError(f"--vae {folder}: no weights that can be read: it holds {why}")
    return _loaded(str(folder), None, there[0], config, local_files_only=True)


def _weights(middle: str) -> set[str]:
    """Names of which one must exist: all weights in one file, or the index of several."""
    return {f"{WEIGHTS}{middle}{ENDING}", f"{WEIGHTS}{ENDING}.index{middle}.json", f"{WEIGHTS}{middle}{ENDING}.index.json"}


def _from_hub(name: str, say) -> torch.nn.Module:
    owner, *rest = name.split("/", 2)
    repository, inside = "/".join([owner, *rest[:1]]), rest[1] if len(rest) > 1 else None
    say(f"--vae {name}: no such file or folder here; asking the Hugging Face hub for {repository}")
    problem = why_not()                                                        # an earlier download may be enough
    options: dict[str, Any] = {"local_files_only": True} if problem else {}
    first: Exception | None = None
    with silenced():
        for folder in [inside] if inside else [None, INSIDE]:
            try:
                config = _any_config(repository, folder, options)
            except (OSError, ValueError) as error:
                first = first or error
                continue
            for variant in (None, HALF):
                try:
                    return _loaded(repository, folder, variant, config, **options)
                except OSError as error:
                    first = error if variant is None else first
            break
    if problem:
        raise UserError(f"--vae {name}: {problem}, and no earlier download of {repository} is here")
    raise UserError(f"--vae {name}: no autoencoder that can be read, neither here nor on the hub: {' '.join(str(first).split())[:160]}")


def _any_config(repository: str, folder: str | None, options: dict[str, Any]) -> dict[str, Any]:
    import diffusers

    config = diffusers.AutoencoderKL.load_config(repository, subfolder=folder, **options)
    if folder is None and config.get("_class_name") not in KINDS:              # as a pipeline's own config.json
        raise ValueError(f"it is a {config.get('_class_name')}, not one of {', '.join(KINDS)}")
    return config


def _loaded(place: str, folder: str | None, variant: str | None, config: dict[str, Any], **options) -> torch.nn.Module:
    name = place if folder is None else f"{place}/{folder}"
    try:
        model, report = class_of(config, name).from_pretrained(
            place, subfolder=folder, variant=variant, use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False,
            output_loading_info=True, **options)
    except UserError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"--vae {name}: cannot be read: {' '.join(str(error).split())[:160]}") from None
    except OSError as error:
        if Path(place).is_dir():
            raise UserError(f"--vae {name}: cannot be read: {' '.join(str(error).split())[:160]}") from None
        raise
    _check_whole(name, report["missing_keys"])
    return model


def _from_file(path: Path) -> tuple[torch.nn.Module, bool]:
    """Configured by the config.json next to it, else by its shapes if its names are latent-diffusion's."""
    if path.suffix != ENDING:
        raise UserError(f"--vae {path}: one file of weights is read as safetensors; others may hold code")
    tensors, beside = read_tensors(path), path.with_name(CONFIG)
    config = _local_config(beside) if beside.is_file() else None
    if config is None and not is_ldm(tensors):
        raise UserError(f"--vae {path}: no {CONFIG} next to it, and its names are not those of latent-diffusion's code (Stable Diffusion, SDXL, "
                        f"FLUX), so that its class is not known; put its {CONFIG} there, or give a folder of both")
    if config is not None:
        model = class_of(config, str(path)).from_config(config)
        if is_ldm(tensors) and not is_ldm(model.state_dict()):
            tensors = ldm_renamed(tensors, config)
    else:
        config = ldm_config(tensors, path)
        model, tensors = class_of(config, str(path)).from_config(config), ldm_renamed(tensors, config)
    try:
        report = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UserError(f"--vae {path}: its tensors do not fit together: {' '.join(str(error).split())[:160]}") from None
    _check_whole(str(path), [name for name in report.missing_keys if not name.endswith("num_batches_tracked")])
    return model.float(), beside.is_file() or config["_class_name"] != "AutoencoderKL"


def _local_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
        return config
    except (OSError, ValueError) as error:
        raise UserError(f"--vae {path}: cannot be read: {' '.join(str(error).split())[:120]}") from None


def _check_whole(name: str, missing) -> None:
    if missing:
        raise UserError(f"--vae {name}: its weights lack {len(missing)} tensors of the autoencoder, for example {sorted(missing)[0]}; is the file complete?")
