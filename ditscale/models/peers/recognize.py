"""Finds a file's project and number of heads from keys, shapes and the training script's arguments."""

from typing import Any

from torch import Tensor

from ditscale.errors import UserError, count
from ditscale.models.peers import LIKES, maskdit, mdt, repa
from ditscale.models.peers.backbone import LAST_LAYER
from ditscale.models.sizes import SIZES, parse_model_name

PATCHES = "x_embedder.proj.weight"
PATHS = {"linear": "Linear", "cosine": "GVP"}                                  # our interpolant: SiT's name


def recognize(source: str, state: dict[str, Tensor], args: dict[str, Any], asked: str | None, command: str) -> tuple[str, str]:
    """The name in ``LIKES``, and how it was determined.

    Args:
        source: the file, for messages.
        asked: the user's answer; checked if the keys determine the project.
        command: what the user typed, without ``--like``.

    Raises:
        UserError: the weights are of another project than ``asked``, or several have this layout: the message has the commands.
    """
    if PATCHES not in state:
        raise UserError(f"{source}: these are not the weights of a diffusion transformer: there is no '{PATCHES}'")
    known = by_keys(state)
    if asked and known and asked != known:
        raise UserError(f"{source}: these are weights of {LIKES[known].title}, by their keys; give --like {known}")
    if asked in ("maskdit", "mdt", "mdtv2") and not known:
        raise UserError(f"{source}: these are not weights of {LIKES[asked].title}; their layout is that of DiT, SiT and REPA")
    if asked or known:
        return (asked, "as asked") if asked else (known or "", "by its keys")
    if by_script := by_args(args):
        return by_script, "by its training script's arguments"
    some = [name for name in ("dit", "sit", "repa") if name != "dit" or _has_variance(state)]
    commands = ", or ".join(f"`{command} --like {name}`" for name in some)
    raise UserError(f"{source}: {_listed([LIKES[name].title for name in some])} checkpoints share this layout but differ in time "
                    f"convention and outputs; specify one: {commands}")


def number_of_heads(source: str, state: dict[str, Tensor], args: dict[str, Any], asked: int | None) -> tuple[int, str]:
    """The number of heads, and how it was determined.

    Raises:
        UserError: it cannot be determined.
    """
    tables = {value.shape[1] for key, value in state.items() if key.endswith(mdt.TABLE) and value.ndim == 2}
    if asked is not None:
        return asked, "as asked"
    if len(tables) == 1:
        return tables.pop(), "by the tables of relative positions"
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    width = state[PATCHES].shape[0] if state[PATCHES].ndim else 0
    _, _, size = str(args.get("model", "")).partition("-")
    stated = SIZES.get(size.split("/")[0])
    if stated and (stated.depth, stated.hidden_size) == (depth, width):
        return stated.num_heads, f"as {args['model']} has"
    for name, one in SIZES.items():
        if (one.depth, one.hidden_size) == (depth, width):
            return one.num_heads, f"as {parse_model_name(f'DiT-{name}/2').size} has, {depth} x {width}"
    raise UserError(f"{source}: the number of heads is not in the weights, and {count(depth, 'block')} of width {width} are no published size; "
                    "give --heads N")


def stated_path(source: str, like: str, args: dict[str, Any]) -> dict[str, str]:
    """Config keys of the interpolant that the training script's arguments state.

    Raises:
        UserError: one that ditscale does not have, or a network that does not predict the velocity.
    """
    if like not in ("sit", "repa"):
        return {}
    prediction, path = args.get("prediction", "v"), args.get("path_type")
    if prediction not in ("v", "velocity"):
        raise UserError(f"{source}: its network predicts the {prediction} (--prediction); formulation flow needs the velocity")
    if path is None:
        return {}
    ours = {"linear": "linear", "gvp": "cosine", "cosine": "cosine"}.get(str(path).lower())
    if ours is None:
        raise UserError(f"{source}: its path is {path} (--path-type); formulation flow has {', '.join(PATHS.values())}")
    return {"formulation.interpolant": ours}


def by_keys(state: dict[str, Tensor]) -> str | None:
    """The name in ``LIKES`` if the keys alone determine it."""
    if maskdit.TABLE in state and f"{maskdit.THEIRS}linear.weight" in state:
        return "maskdit"
    if any(key.startswith(f"{mdt.LISTS[0]}.") for key in state):
        return "mdtv2"
    if any(key.endswith(mdt.TABLE) for key in state):
        return "mdt"
    return "repa" if any(key.startswith(repa.PROJECTORS) for key in state) else None


def by_args(args: dict[str, Any]) -> str | None:
    """DiT's, SiT's and REPA's scripts have arguments of their own."""
    if "proj_coeff" in args or "enc_type" in args:
        return "repa"
    if "path_type" in args and "prediction" in args:
        return "sit"
    return "dit" if str(args.get("model", "")).startswith("DiT-") else None


def _has_variance(state: dict[str, Tensor]) -> bool:
    """Whether there are two sets of output channels; if that cannot be read, reading the sizes reports it later."""
    patches, last = state[PATCHES], state.get(LAST_LAYER)
    return last is None or not patches.ndim or not last.ndim or last.shape[0] != patches[0].numel()


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
