"""Shared parts for peers with DiT's own shape: sizes read from the weights, and a check of keys and shapes.

DiT, SiT and REPA share the backbone and its key names with ditscale (adaLN-Zero, without QK-norm); they differ in time and outputs.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ditscale.errors import UserError
from ditscale.models.dit import DiT

LAST_LAYER = "final_layer.linear.weight"


class Translated(NamedTuple):
    """A peer's weights under ditscale's names."""

    weights: dict[str, Tensor]                                                 # by ditscale's key names
    model: dict                                                                # keyword arguments of the model's constructor
    config: dict[str, object]                                                  # dotted config keys that give the peer's outputs
    kind: type[DiT] = DiT                                                      # the model's class


def sizes(state: dict[str, Tensor], heads: int, peer: str) -> dict:
    """Keyword arguments of ``DiT`` for a backbone's weights; ``learn_sigma`` says whether there are 2 C output channels.

    The label table has a null class as its last row: this cannot be seen in the weights, and a peer's model without label dropout is rare.

    Raises:
        UserError: a key that the sizes are read from is missing or has another shape.
    """
    try:
        hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
        _, tokens, _ = state["pos_embed"].shape
        rows, _ = state["y_embedder.embedding_table.weight"].shape
        outputs, _ = state[LAST_LAYER].shape
    except KeyError as error:
        raise UserError(f"these are not weights of {peer}: there is no {error}") from None
    except ValueError:
        raise UserError(f"these are not weights of {peer}: patches, positions, labels or outputs have another number of axes") \
            from None
    if min(hidden, channels, patch, tokens, rows - 1, outputs) < 1:
        raise UserError(f"these are not weights of {peer}: patches, positions, labels or outputs are empty")
    one = channels * patch * patch
    if outputs not in (one, 2 * one):
        raise UserError(f"these are not weights of {peer}: final_layer.linear has {outputs} outputs where {one} or {2 * one} "
                        "belong")
    return {"input_size": math.isqrt(tokens) * patch, "patch_size": patch, "in_channels": channels, "hidden_size": hidden,
            "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}), "num_heads": heads,
            "num_classes": rows - 1, "class_dropout_prob": 0.1, "learn_sigma": outputs == 2 * one}


def check_variance(model: dict, peer: str) -> None:
    """Raises UserError if there is no learned variance, which formulation ddpm needs."""
    if not model["learn_sigma"]:
        raise UserError(f"these weights give {model['in_channels']} channels, without {peer}'s learned variance; formulation ddpm "
                        f"needs {2 * model['in_channels']}")


def without_second_half(state: dict[str, Tensor], model: dict) -> tuple[dict[str, Tensor], dict]:
    """A model of 2 C output channels whose second half the peer discards, as a model of C."""
    if not model["learn_sigma"]:
        return state, model
    kept = dict(state)
    for key in (LAST_LAYER, "final_layer.linear.bias"):                        # rows are (p, p, 2 C): channels innermost
        rows = state[key].unflatten(0, (model["patch_size"] ** 2, 2, model["in_channels"]))
        kept[key] = rows[:, 0].flatten(0, 1).contiguous()
    return kept, model | {"learn_sigma": False}


def checked(state: dict[str, Tensor], model: dict, peer: str, kind: type[DiT] = DiT) -> dict[str, Tensor]:
    """The same weights, after checking that they are exactly those of a model of class ``kind``, in keys and shapes.

    Raises:
        UserError: they are not; the message names the first such weight.
    """
    with torch.device("meta"):
        wanted = kind(**model).state_dict()
    for key, value in wanted.items():
        if key not in state:
            raise UserError(f"these are not weights of {peer}: there is no '{key}'")
        if state[key].shape != value.shape:
            raise UserError(f"these are not weights of {peer}: '{key}' is {tuple(state[key].shape)}, not {tuple(value.shape)}")
    beyond = [key for key in state if key not in wanted]
    if beyond:
        raise UserError(f"these weights of {peer} hold '{beyond[0]}', which its published model does not have"
                        + (f" (and {len(beyond) - 1} more)" if len(beyond) > 1 else ""))
    return state
