"""Converts weights: the released DiT layout (.pt), safetensors, and diffusers' ``DiTTransformer2DModel``.

Our ``state_dict`` has the released key names, so a released checkpoint loads as it is (``weights_file.py``).

One thing diffusers does differently: its timestep sinusoid has frequencies 10000^(-i/127), the released model 10000^(-i/128). No
change of weights can compensate for that, so ``to_diffusers`` sets the released frequencies on the model it returns. diffusers does not
store them with a saved folder: load such a folder with ``load_diffusers``, which sets them again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ditscale.errors import UserError, first_line
from ditscale.models.blocks import DEFAULT_DESIGN
from ditscale.models.dit import DiT
from ditscale.models.peers import LIKES
from ditscale.models.peers.backbone import sizes
from ditscale.models.peers.recognize import by_args, by_keys, number_of_heads
from ditscale.models.weights_file import read_weights, with_header
from ditscale.tensorfile import save_tensors

RUN_KEY = "run"                                                                # in an export's header: the run's config
CONFIG_KEY = "ditscale.config"                                                 # in the safetensors' metadata
OUTPUTS_KEY = "ditscale.outputs"                                               # also in a .pt: whose time and outputs; absent: unchanged
FACTS = "ditscale.json"                                                        # in a diffusers folder: what a header says, and how its run samples
PLAIN = ("dit", "sit", "repa")                                                 # of LIKES: those whose model is a plain DiT
DIFFUSERS_EPS = 1e-6                                                           # of the released layer norms; diffusers' default is 1e-5


class Loaded(NamedTuple):
    """A DiT that was read.

    Attributes:
        header: header for ``save_model``, which states that time and outputs are ditscale's.
        notes: what was assumed, in lines.
    """

    model: DiT
    header: dict[str, str]
    notes: list[str]


def load_model(path, *, like: str | None = None, heads: int | None = None) -> DiT:
    """The model of ``load``."""
    return load(path, like=like, heads=heads).model


def load(path, *, like: str | None = None, heads: int | None = None) -> Loaded:
    """A DiT from a file of weights (a training script's, a bare state dict, safetensors), or a diffusers folder.

    Args:
        like: whose weights they are, a name of ``LIKES``: SiT's and REPA's are converted. None: unchanged, but weights whose
            keys show that they are of another project are refused.
        heads: for weights of a size that is not in the table.

    Raises:
        UserError: the file is missing, is not weights, is not a DiT, or the number of heads is not known.
    """
    path = Path(path)
    if path.is_dir():
        if like or heads:
            raise UserError(f"{path}: --like and --heads are for a file of weights, and this is a folder of diffusers, which states both")
        header = _folder_header(path)
        notes = [f"{path}: time and outputs are not DiT's ({words[:80]}); numbers as they are" for words in header.values()]
        return Loaded(from_diffusers(load_diffusers(path)), header, notes)
    file = read_weights(path)
    own = _own_outputs(file.header)
    if like and (own or CONFIG_KEY in file.header):
        raise UserError(f"{path}: written by ditscale, with its time and outputs; leave --like out, which is for files of other projects")
    if CONFIG_KEY in file.header:
        return Loaded(_build(file.state, _stated(path, file.header[CONFIG_KEY], file.state), str(path)), own, [])
    _refuse_no_plain_dit(path, by_keys(file.state), like)
    options = describe(file.state, str(path), file.args, heads)
    if like is None or like == "dit":
        asks = like is None and not own and by_args(file.args) != "dit"
        return Loaded(_build(file.state, options, str(path)), own,
                      [f"{path}: taken as DiT's, numbers as they are; SiT's and REPA's have this layout too: for theirs give --like sit or --like repa"] * asks)
    translated = LIKES[like].translate(file.state, options["num_heads"])
    return Loaded(_build(translated.weights, translated.model, str(path)), {OUTPUTS_KEY: f"{like}, turned by convert"}, [])


def _folder_header(folder: Path) -> dict[str, str]:
    """What a diffusers folder that ditscale wrote says of time and outputs; nothing where it is another's."""
    path = _transformer(folder) / FACTS
    try:
        return _own_outputs(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}; it says whose time and outputs these weights have") from None


def write_facts(folder: Path, facts: dict) -> None:
    """Writes a file of facts next to a transformer that diffusers saved, whose own files cannot hold them."""
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def _own_outputs(header: dict[str, str]) -> dict[str, str]:
    """The time and outputs stated in a header; an export's follow from its run's formulation."""
    if OUTPUTS_KEY in header or RUN_KEY not in header:
        return {OUTPUTS_KEY: header[OUTPUTS_KEY]} if OUTPUTS_KEY in header else {}
    try:
        return outputs_of(json.loads(header[RUN_KEY])["formulation"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def outputs_of(formulation: Mapping) -> dict[str, str]:
    """The header of a file of a run's weights, by its section ``formulation``: ddpm's time and outputs are DiT's."""
    if formulation["name"] == "ddpm":
        return {}
    predicts = f", prediction {formulation['prediction']}" if formulation.get("prediction", "velocity") != "velocity" else ""
    return {OUTPUTS_KEY: f"formulation {formulation['name']}{predicts}"}


def _refuse_no_plain_dit(path: Path, known: str | None, like: str | None) -> None:
    """Raises UserError for weights that, by their keys or by ``like``, are not a plain DiT's."""
    name = known or like
    if name == "repa" and name != like:
        raise UserError(f"{path}: these are weights of {LIKES[name].title}, by their keys; give --like {name}")
    if name and name not in PLAIN:
        raise UserError(f"{path}: {LIKES[name].title}'s model is no plain DiT; make a run of it with `ditscale import-run {path} RUN --like {name}`, "
                        "then `ditscale export`")


def _stated(path: Path, header: str, state: dict[str, Tensor]) -> dict:
    """The constructor's keywords in a file's header. Raises UserError if they are damaged, or of another depth than the weights."""
    try:
        options = json.loads(header)
        depth = options["depth"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: its header is damaged: {CONFIG_KEY} is {header[:40]!r}") from None
    blocks = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    if depth != blocks:
        raise UserError(f"{path}: its header says {str(depth)[:20]} blocks, but it holds {blocks}")
    return options


def save_model(model: DiT, path, header: dict[str, str] | None = None) -> None:
    """Write a DiT as ``.safetensors``, as a released-layout ``.pt``, or as a diffusers folder (any other name).

    Args:
        header: further entries for the header of a ``.safetensors`` or ``.pt`` file; of a folder, for its ``ditscale.json``.

    Raises:
        OSError, SafetensorError: it cannot be written; ``writing`` turns them into one line.
    """
    path = Path(path)
    state = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_tensors(state, path, {CONFIG_KEY: json.dumps(options_of(model)), **(header or {})})
    elif path.suffix == ".pt":
        _refuse_other_designs(model, "the released layout")
        try:
            torch.save(with_header(state, header) if header else state, path)
        except RuntimeError as error:                                          # torch's own writer, also for a full disk
            raise OSError(first_line(error)) from None
    else:
        to_diffusers(model).save_pretrained(path)
        if header:
            write_facts(path, header)


def describe(state: dict[str, Tensor], source: str, args: dict | None = None, heads: int | None = None) -> dict:
    """The constructor's keywords of a released adaLN-Zero state dict, from its shapes.

    Args:
        args, heads: the training script's arguments and the user's number of heads.

    Raises:
        UserError: the keys are not a DiT's, or the number of heads is not known.
    """
    try:
        model = sizes(state, 0, "DiT")
    except UserError:
        raise UserError(f"{source}: these are not the weights of a DiT (no x_embedder, pos_embed, y_embedder, final_layer)") from None
    return model | {"num_heads": number_of_heads(source, state, args or {}, heads)[0]}


def options_of(model: DiT) -> dict:
    """The constructor's keywords of a model."""
    rows, channels = model.y_embedder.embedding_table.num_embeddings, model.x_embedder.patches.in_channels
    return {"input_size": model.grid * model.patch_size, "patch_size": model.patch_size, "in_channels": channels,
            "hidden_size": model.hidden_size, "depth": len(model.blocks), "num_heads": model.num_heads, "mlp_ratio": model.mlp_ratio,
            "num_classes": model.num_classes, "class_dropout_prob": 0.1 if rows > model.num_classes else 0.0,
            "learn_sigma": model.out_channels == 2 * channels, "block": model.block, "qk_norm": model.switches.qk_norm, **model.switches.given}


def to_diffusers(model: DiT):
    """The same model as diffusers' ``DiTTransformer2DModel``: equal outputs, ready for ``DiTPipeline``.

    Raises:
        UserError: the block design is not adaLN-Zero, QK-norm is on, or there is no null class: diffusers has no such DiT.
    """
    from diffusers import DiTTransformer2DModel

    _refuse_other_designs(model, "diffusers")
    options = options_of(model)
    if options["class_dropout_prob"] == 0:
        raise UserError("diffusers' DiT has a null class; this model was made without label dropout and has none")
    with torch.device("meta"):
        twin = DiTTransformer2DModel(
            num_attention_heads=options["num_heads"], attention_head_dim=options["hidden_size"] // options["num_heads"],
            in_channels=options["in_channels"], out_channels=model.out_channels, num_layers=options["depth"],
            sample_size=options["input_size"], patch_size=options["patch_size"], num_embeds_ada_norm=options["num_classes"],
            norm_eps=DIFFUSERS_EPS)
    ours, theirs = model.state_dict(), {}
    for name, source in _diffusers_keys(options["depth"]):
        theirs[name] = ours[source].clone()
    for i in range(options["depth"]):
        for kind in ("weight", "bias"):
            for letter, part in zip("qkv", ours[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)):
                theirs[f"transformer_blocks.{i}.attn1.to_{letter}.{kind}"] = part.clone()
    twin.load_state_dict(theirs, assign=True)
    twin.pos_embed.pos_embed = ours["pos_embed"].clone()                       # computed there, not stored
    return _with_released_frequencies(twin).eval()


def from_diffusers(twin) -> DiT:
    """A diffusers ``DiTTransformer2DModel`` as our model.

    Raises:
        UserError: its blocks have different embeddings (diffusers stores one per block), or its layout is not ours.
    """
    config = twin.config
    theirs = twin.state_dict()
    hidden = config.num_attention_heads * config.attention_head_dim
    ours = {"pos_embed": twin.pos_embed.pos_embed}
    for name, source in _diffusers_keys(config.num_layers):
        if source in ours and not torch.equal(ours[source], theirs[name]):
            raise UserError(f"{name} differs from the first block's: this model was trained with embeddings of their own in each "
                            "block, which a DiT does not have")
        ours[source] = theirs[name]
    for i in range(config.num_layers):
        for kind in ("weight", "bias"):
            parts = [theirs[f"transformer_blocks.{i}.attn1.to_{letter}.{kind}"] for letter in "qkv"]
            ours[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    out_channels = config.out_channels or config.in_channels
    if out_channels not in (config.in_channels, 2 * config.in_channels):
        raise UserError(f"out_channels {out_channels} is neither in_channels {config.in_channels} nor twice that")
    return _build(ours, {"input_size": config.sample_size, "patch_size": config.patch_size, "in_channels": config.in_channels,
                         "hidden_size": hidden, "depth": config.num_layers, "num_heads": config.num_attention_heads,
                         "num_classes": config.num_embeds_ada_norm, "learn_sigma": out_channels != config.in_channels}, "diffusers")


def load_diffusers(folder):
    """A saved ``DiTTransformer2DModel``, or the transformer of a saved ``DiTPipeline``, with the released frequencies."""
    from diffusers import DiTTransformer2DModel

    folder = _transformer(Path(folder))
    try:
        return _with_released_frequencies(DiTTransformer2DModel.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a diffusers DiT: {first_line(error)}") from None


def _transformer(folder: Path) -> Path:
    """The folder itself, or its transformer where it is a pipeline's."""
    return folder / "transformer" if (folder / "transformer").is_dir() else folder


def _with_released_frequencies(twin):
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return twin


def _diffusers_keys(depth: int):
    """Pairs (diffusers key, our key). Every diffusers block has the embedders; attention's q, k, v are separate."""
    for kind in ("weight", "bias"):
        yield f"pos_embed.proj.{kind}", f"x_embedder.proj.{kind}"
        yield f"proj_out_1.{kind}", f"final_layer.adaLN_modulation.1.{kind}"
        yield f"proj_out_2.{kind}", f"final_layer.linear.{kind}"
    for i in range(depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks.{i}"
        yield f"{theirs}.norm1.emb.class_embedder.embedding_table.weight", "y_embedder.embedding_table.weight"
        for kind in ("weight", "bias"):
            yield f"{theirs}.norm1.emb.timestep_embedder.linear_1.{kind}", f"t_embedder.mlp.0.{kind}"
            yield f"{theirs}.norm1.emb.timestep_embedder.linear_2.{kind}", f"t_embedder.mlp.2.{kind}"
            yield f"{theirs}.norm1.linear.{kind}", f"{ours}.adaLN_modulation.1.{kind}"
            yield f"{theirs}.attn1.to_out.0.{kind}", f"{ours}.attn.proj.{kind}"
            yield f"{theirs}.ff.net.0.proj.{kind}", f"{ours}.mlp.fc1.{kind}"
            yield f"{theirs}.ff.net.2.{kind}", f"{ours}.mlp.fc2.{kind}"


def _refuse_other_designs(model: DiT, what: str) -> None:
    if model.block != DEFAULT_DESIGN:
        raise UserError(f"{what} supports only adaLN-Zero, and this model's blocks are '{model.block}'; write .safetensors instead")
    if model.switches.given:
        raise UserError(f"{what} does not support {model.switches.words}, which this model has; write .safetensors instead")


def _build(state: dict[str, Tensor], options: dict, source: str) -> DiT:
    try:
        with torch.device("meta"):
            model = DiT(**options)
    except TypeError as error:
        raise UserError(f"{source}: its header is damaged: {first_line(error)}") from None
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UserError(f"{source}: {' '.join(str(error).split())[:300]}") from None
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()
