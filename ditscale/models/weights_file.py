"""Reads a file of weights as people have it: a training script's, a bare state dict, or safetensors; under bare names.

Loading unpickles tensors, containers, numbers and text, and of classes ``argparse.Namespace`` alone: the training scripts of DiT, SiT,
REPA and MaskDiT keep their arguments in one.
"""

import argparse
import errno
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ditscale.errors import UserError, first_line

PARTS = ("ema", "ema_model", "model_ema", "model", "state_dict", "module")     # where a state dict lies; averages first
AVERAGES = PARTS[:3]
ARGUMENTS = ("args", "hparams")
COMPILED = "_orig_mod."                                                        # torch.compile's, before any part of a name
WRAPPERS = ("module.", "model.", "ema_model.")                                 # before every name: DDP's, MaskDiT's, averages'
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


class WeightsFile(NamedTuple):
    """What a file of weights holds."""

    state: dict[str, Tensor]                                                   # by bare names
    part: str                                                                  # where it lay: "ema", "model", ...; "" for a bare one
    args: dict[str, Any]                                                       # the training script's; {} where it keeps none
    header: dict[str, str]                                                     # safetensors' metadata; of a .pt what ``saved_header`` reads

    @property
    def is_average(self) -> bool | None:
        """Whether the weights are averaged; None where the file does not say."""
        return self.part in AVERAGES if self.part else None


def read_weights(path, part: str | None = None) -> WeightsFile:
    """The weights in a file.

    Args:
        part: of a file that holds several state dicts, which; default: the average, else the model.

    Raises:
        UserError: there is no such file or part, it is damaged, needs other classes to load, or holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; give a file of weights. Of a folder of diffusers `ditscale convert {path} FILE.pt` makes one")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        state, header = read_safetensors(path)
        return WeightsFile(bare_names(state, str(path)), "", {}, header)
    loaded = _load(path)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds no state dict, but a {type(loaded).__name__}")
    found, state = _state_of(path, loaded, part)
    if repeated := [key for key, value in state.items() if value.layout != torch.strided or value.untyped_storage().nbytes() < value.nbytes]:
        raise UserError(f"{path}: {repeated[0]} is not stored as the {state[repeated[0]].numel():,} numbers of its shape")
    args: Any = next((loaded[name] for name in ARGUMENTS if name in loaded), {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return WeightsFile(bare_names(state, str(path)), found, args if isinstance(args, dict) else {}, saved_header(state))


def with_header(state: dict[str, Tensor], header: dict[str, str]) -> dict[str, Tensor]:
    """A state dict to be saved with these words where torch keeps a module's version: ``load_state_dict`` ignores them."""
    kept = OrderedDict(state)
    vars(kept)["_metadata"] = {"": {"version": 1, **header}}
    return kept


def saved_header(state: dict[str, Tensor]) -> dict[str, str]:
    """The words of ``with_header`` in a state dict that was loaded."""
    versions = getattr(state, "_metadata", None)
    first = versions.get("") if isinstance(versions, dict) else None
    return {key: value for key, value in first.items() if isinstance(key, str) and isinstance(value, str)} if isinstance(first, dict) else {}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises UserError where it is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from None


def bare_names(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state dict without the names of what wrapped the network.

    Raises:
        UserError: two names are one then.
    """
    bare = {key: key.replace(COMPILED, "") for key in state}
    while bare and (wrapper := next((one for one in WRAPPERS if all(name.startswith(one) for name in bare.values())), None)):
        bare = {key: name.removeprefix(wrapper) for key, name in bare.items()}
    if len(set(bare.values())) < len(bare):
        twice = next(name for name in bare.values() if list(bare.values()).count(name) > 1)
        raise UserError(f"{source}: holds '{twice}' twice, once in a wrapper's name")
    return {name: state[key] for key, name in bare.items()}


def _load(path: Path):
    """What torch saved. Of a file of today's form only what is used is read from the disk: an optimizer's state stays there."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:                                                 # torch raises a dozen kinds for a bad file
        raise UserError(f"{path}: {_reason(error, path)}") from None


def _reason(error: Exception, path: Path) -> str:
    """The class that would have had to be loaded, where that is why; torch's own text would tell users to load it."""
    for line in str(error).splitlines():
        if "Unsupported global: GLOBAL" in line:
            kind = line.split("GLOBAL ")[1].split()[0]
            return f"not weights that can be loaded safely: it holds a {kind}, and nothing but tensors, numbers and text is loaded"
    if isinstance(error, OSError) and error.errno != errno.EINVAL:             # mmap's word for a file that is too short
        return first_line(error)
    return "damaged or incomplete" if zipfile.is_zipfile(path) or path.read_bytes()[:4] == b"PK\x03\x04" else "not a file of weights"


def _state_of(path: Path, loaded: dict, part: str | None) -> tuple[str, dict[str, Tensor]]:
    """The name and the tensors of the state dict that is asked for."""
    if part is None and loaded and _is_state(loaded):
        return "", loaded
    there = [name for name, value in loaded.items() if isinstance(name, str) and isinstance(value, dict) and value and _is_state(value)]
    if part is not None and part not in there:
        raise UserError(f"{path}: holds no weights '{part}'" + (f"; it has {', '.join(there)}" if there else ""))
    known = [name for name in PARTS if name in there]
    if part is None and not known:
        raise UserError(f"{path}: holds no state dict; it has {', '.join(map(str, list(loaded)[:8])) or 'nothing'}")
    found = part or known[0]
    return found, loaded[found]


def _is_state(value: dict) -> bool:
    return all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
