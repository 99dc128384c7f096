"""Published results as rows of the ledger: converts papers' columns and units.

    macs         gflops x 1e9: the papers' "Gflops" count each multiply-add once
    images_seen  train_steps_k x 1000 x batch_size, or images_seen_m x 1e6
    train_flops  6 x macs x images_seen for plain training (2 FLOPs per multiply-add, a backward pass of twice the forward); our closed
                 forms for MaskDiT and MDT, whose training pass differs from inference; unknown for all others

A published score has no passport. Fields that its source states are kept; the others are unknown.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

import ditscale
from ditscale.errors import UserError, did_you_mean
from ditscale.evaluation.passport import digest
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS
from ditscale.models.macs import FLOPS_PER_MAC, FORWARDS_PER_TRAINED_STEP, ComputeCard, make_backbone
from ditscale.models.sizes import parse_model_name
from ditscale.objectives import BASELINE, BaselineConfig, MaskedConfig, MdtConfig

FOLDER = Path(ditscale.__file__).parent / "published"
TABLES = {"dit": "dit_table4_all_models.csv", "dit_benchmarks": "dit_benchmarks.csv", "maskdit": "maskdit.csv", "mdt": "mdt.csv",
          "sddit": "sddit_and_comparison.csv", "sit_repa_sra_tread": "sit_repa_sra_tread.csv", "others": "other_models_and_costs.csv"}
NEEDED = ("source", "model", "variant", "patch", "params_m", "gflops", "batch_size", "train_steps_k", "images_seen_m", "cfg_scale",
          "sampler", "nfe", "fid", "verified", "resolution")
OPTIONAL = ("gpu_hours",)
NUMBERS = ("patch", "params_m", "gflops", "batch_size", "train_steps_k", "images_seen_m", "nfe", "fid", "resolution")
POSITIVE = ("patch", "params_m", "gflops", "batch_size", "train_steps_k", "images_seen_m", "nfe", "resolution")
METRIC, SAMPLES, VERIFIED = "fid", 50_000, "yes"
LATENT_PIXELS, LATENT_CHANNELS, CLASSES = 8, 4, 1000                    # the VAE's downsampling; ImageNet
SAMPLERS = {"DDPM": "ddpm", "EDM": "edm", "ODE": "flow", "SDE": "flow"}  # a sampler's first word determines the formulation
MDTV2_DECODER_BLOCKS = {"S": 6, "XL": 4}                                # B's number is unknown
BLOCKS = {design.label: name for name, design in DESIGNS.items() if name != DEFAULT_DESIGN}
NAME = re.compile(r"(?P<family>DiT|SiT|MaskDiT|MDT|MDTv2)-(?P<size>S|B|L|XL)/(?P<patch>\d)(?: (?P<block>{}))?".format("|".join(BLOCKS)))
DECODER = re.compile(r"ft-MSE|ft-EMA|original LDM")


def is_published(table: pd.DataFrame) -> bool:
    """Whether ``table`` came from published results."""
    return "source" in table and "verified" in table


def looks_published(columns) -> bool:
    """Whether a CSV with these columns is meant as published results: it has some columns that only those have."""
    return len({"fid", "gflops", "cfg_scale", "verified"} & set(columns)) >= 2


def read(path: Path) -> pd.DataFrame:
    """The rows of a published table that state an FID and the model's size, in the ledger's columns and ``source``,
    ``verified``, ``resolution`` (pixels), ``block``.

    ``train_flops`` is NaN if the cost of a training pass is unknown.

    Raises:
        UserError: a column is missing, a field is not a number, or no row can be drawn.
    """
    try:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
        raise UserError(f"{path} is not a CSV of published results") from None
    missing = [name for name in NEEDED if name not in raw]
    if missing:
        raise UserError(f"{path}: a table of published results needs the columns {', '.join(map(repr, missing))}; it has "
                        f"{', '.join(raw.columns)}")
    for name in (*NUMBERS, *(name for name in OPTIONAL if name in raw)):
        numbers = pd.to_numeric(raw[name].replace("", np.nan), errors="coerce")
        require_numbers(path, raw[name], numbers.isna() & (raw[name] != ""))
        raw[name] = numbers
        if name in POSITIVE:
            wrong = np.flatnonzero(~(numbers.isna() | (numbers > 0)))
            if wrong.size:
                raise UserError(f"{path}, line {wrong[0] + 2}: {name} {numbers.iloc[wrong[0]]:g} must be above 0; leave the field empty if it is "
                                "unknown")
    rows = [_row(row) for _, row in raw.dropna(subset=["fid", "patch", "resolution"]).iterrows()]
    rows = [row for row in rows if row["size"] and row["images_seen"]]
    if not rows:
        raise UserError(f"{path}: none of its {len(raw)} rows states an FID, a model with a size and a patch size, and the images seen")
    return _runs(pd.DataFrame(rows))


def require_numbers(path: Path, column: pd.Series, wrong: pd.Series) -> None:
    """Refuses a CSV's text column with rows that are ``wrong``; line 1 is the header."""
    places = np.flatnonzero(wrong)
    if places.size:
        raise UserError(f"{path}, line {places[0] + 2}: {column.name} '{column.iloc[places[0]]}' is not a number")


def load(names: list[str]) -> pd.DataFrame:
    """The included tables of these names, concatenated; a result quoted by several is kept once.

    Raises:
        UserError: a name is unknown.
    """
    for name in names:
        if name not in TABLES:
            raise UserError(f"--published '{name}': no such table{did_you_mean(name, TABLES) or '.'} Tables: {', '.join(TABLES)}")
    rows = pd.concat([read(FOLDER / TABLES[name]) for name in names], ignore_index=True)
    return rows.drop_duplicates(["model", "block", "resolution", "guidance_scale", "images_seen", "score"], ignore_index=True)


def largest_comparable(table: pd.DataFrame, one_of_each: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    """The largest set of rows that agree in these columns, in block design and in family (MDT differs from MDTv2, SiT from SiT with REPA),
    and a sentence on the others ("" if there are none).

    A paper's table has several experiments: the one with the most rows of known training compute is taken, or, if it is unknown for all,
    the one with the most rows; the first of ties.
    """
    kinds = table.groupby([*one_of_each, "block", "family"], sort=False, dropna=False).ngroup()
    counts = table["train_flops"].notna().groupby(kinds, sort=False).agg(["sum", "size"]).sort_values(["sum", "size"], kind="stable", ascending=False)
    kept = table[kinds == counts.index[0]]
    left = len(table) - len(kept)
    if not left:
        return table, ""
    return kept, (f" Of the table's {len(table)} results these are the {len(kept)} that can be compared "
                  f"({_experiment(kept.iloc[0])}); choose others with --where.")


def _experiment(row: pd.Series) -> str:
    stated = json.loads(row["passport_fields"])["guidance_scale"]
    scale = "unguided" if row["guidance_scale"] == 1 else f"guidance {stated or 'not stated'}"
    steps = f"{row['nfe']:g} model evaluations" if np.isfinite(row["nfe"]) else "model evaluations not stated"
    return f"{row['family']}, {row['resolution']:.0f} px, {scale}, {steps}, block {row['block']}"


def _row(row: pd.Series) -> dict:
    """One result in the ledger's columns; unknown values are NaN, or "" for ``size`` and 0 for ``images_seen``."""
    model = re.sub(r"(/\d)-G$", r"\1", row["model"])                      # "-G" means guided; guidance has its own column
    size, stated, card = re.search(r"-([A-Za-z]+)/\d", model), _stated(row), _card(NAME.fullmatch(model), row["resolution"])
    macs = _first(row["gflops"] * 1e9, card and card.macs)
    steps = row["train_steps_k"] * 1e3 * row["batch_size"]
    return {
        "model": model, "family": _family(model), "size": size[1] if size else "", "patch_size": int(row["patch"]),
        "variant": "mdt" if model.startswith("MDT") else row["variant"],  # the tables list MDT as masked
        "formulation": SAMPLERS.get(row["sampler"].split(" ")[0], "not stated"), "seed": 0,
        "parameters": _first(row["params_m"] * 1e6, card and card.inference_parameters),
        "tokens": int(row["resolution"] / LATENT_PIXELS / row["patch"]) ** 2, "macs": macs,
        "train_flops_per_image": _train_flops_per_image(model, row["variant"], macs, card),
        "images_seen": round(np.nan_to_num(_first(steps, row["images_seen_m"] * 1e6))), "metric": METRIC, "score": row["fid"],
        "floor": np.nan, "samples": stated["samples"], "guidance_scale": _scale(row["cfg_scale"]), "nfe": row["nfe"],
        "passport": digest(stated), "passport_fields": json.dumps(stated, sort_keys=True), "sample_seeds": 1,
        "train_seconds": np.nan, "accelerator_hours": row.get("gpu_hours", np.nan), "device": row.get("gpu", ""), "sample_sheet": "", "source": row["source"],
        "verified": row["verified"], "resolution": int(row["resolution"]),
        "block": next((block for name, block in BLOCKS.items() if model.endswith(f" {name}")), DEFAULT_DESIGN),
    }


def _family(model: str) -> str:
    """The part of a name that models of several sizes share: ``SiT-XL/2 + REPA`` -> ``SiT + REPA``; a block design has its own column."""
    for name in BLOCKS:
        model = model.removesuffix(f" {name}")
    return re.sub(r"-[A-Za-z]+/\d+", "", model)


def _stated(row: pd.Series) -> dict:
    """The fields of a score's passport that its source states."""
    words = f"{row['model']} {row.get('notes', '')}"
    samples, decoder = re.search(r"FID-(\d+)K", words), DECODER.search(words)
    return {"metric": METRIC, "reference_sha256": f"ImageNet at {row['resolution']:.0f} px, statistics not stated",
            "samples": 1000 * int(samples[1]) if samples else SAMPLES, "sampler": row["sampler"] or None,
            "nfe": int(row["nfe"]) if np.isfinite(row["nfe"]) else None, "guidance_scale": row["cfg_scale"] or None,
            "decoder": decoder[0] if decoder else None}


def _card(name: re.Match | None, resolution: float) -> ComputeCard | None:
    """Our closed forms for a model with a published structure; None for all others, including SD-DiT."""
    if name is None or (name["family"] == "MDTv2" and name["size"] not in MDTV2_DECODER_BLOCKS):
        return None
    objective = {
        "MaskDiT": lambda: MaskedConfig(name="masked"), "MDT": lambda: MdtConfig(name="mdt"),
        "MDTv2": lambda: MdtConfig(name="mdt", mask_ratio_max=0.5, decoder_depth=MDTV2_DECODER_BLOCKS[name["size"]], long_skips=True),
    }.get(name["family"], lambda: BaselineConfig.model_validate({"name": BASELINE}))()
    backbone = make_backbone(
        parse_model_name(f"DiT-{name['size']}/{name['patch']}"), resolution=int(resolution) // LATENT_PIXELS,
        channels=LATENT_CHANNELS, classes=CLASSES, learn_sigma=name["family"] != "MaskDiT",
        block=BLOCKS.get(name["block"], DEFAULT_DESIGN))
    return objective.card(backbone)


def _train_flops_per_image(model: str, variant: str, macs: float, card: ComputeCard | None) -> float:
    """FLOPs of the training pass; NaN if its computation is unknown."""
    if variant == BASELINE or model.startswith("SiT-") and card:
        return FLOPS_PER_MAC * FORWARDS_PER_TRAINED_STEP * macs
    return float(card.train_flops_per_image) if card else np.nan     # not int: multiplied by the images it exceeds 64 bits


def _runs(rows: pd.DataFrame) -> pd.DataFrame:
    """The results with a run id: a run is one model in one source under one passport, at different numbers of images seen."""
    one_run = ["source", "model", "passport"]
    rows["_again"] = rows.groupby([*one_run, "images_seen"]).cumcount()    # two trainings of one model
    runs = rows.groupby([*one_run, "_again"], sort=False)
    rows["run_id"] = rows["model"] + ", " + rows["source"] + ", " + runs.ngroup().astype(str)
    rows["final"] = rows["images_seen"] == runs["images_seen"].transform("max")
    rows["train_flops"] = rows["train_flops_per_image"] * rows["images_seen"]
    return rows.drop(columns="_again")


def _first(*values) -> float:
    """The first known value, else NaN."""
    return next((float(value) for value in values if value is not None and np.isfinite(value)), np.nan)


def _scale(text: str) -> float:
    """A guidance scale: "none" is 1; one that is not constant is NaN."""
    if text == "none":
        return 1.0
    return float(pd.to_numeric(text, errors="coerce"))
