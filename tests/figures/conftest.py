"""A made-up study with the columns of ``ditscale.studies.table.ledger.collect``."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ditscale.evaluation.passport import digest

SIZES = {"atto": (4, 32), "femto": (4, 64), "pico": (6, 96), "nano": (8, 128)}     # depth, width
RESOLUTION, CLASSES, FLOOR, IMAGES_SEEN = 8, 10, 1.6, 640_000


def model_cost(depth: int, width: int, patch: int) -> tuple[int, int, int]:
    """Tokens, parameters and MACs, near enough to DiT's."""
    tokens = (RESOLUTION // patch) ** 2
    parameters = depth * 18 * width ** 2 + 4 * width ** 2 + 2 * patch ** 2 * width
    block = 12 * tokens * width ** 2 + 2 * tokens ** 2 * width + 6 * width ** 2
    return tokens, parameters, depth * block + 2 * tokens * patch ** 2 * width


def make_study(sheets: Path | None = None, seeds=(0,), alpha: float = 0.3, noise: float = 0.06) -> pd.DataFrame:
    """Twelve models with four checkpoints each; above a floor the score falls with MACs and, faster, with images."""
    rng = np.random.default_rng(0)
    rows = []
    for size, (depth, width) in SIZES.items():
        for patch in (8, 4, 2):
            tokens, parameters, macs = model_cost(depth, width, patch)
            for seed in seeds:
                run_id = f"digits-{size}-{patch}-s{seed}-0badcafe"
                luck = np.exp(noise * rng.standard_normal())
                for part in (8, 4, 2, 1):
                    images_seen = IMAGES_SEEN // part
                    train_flops = 6 * macs * images_seen
                    wobble = 1.0 + 0.04 * rng.standard_normal()
                    score = FLOOR + 30.0 * luck * wobble * (macs / 1e5) ** -alpha * part ** 0.5
                    final = part == 1
                    rows.append({
                        "run_id": run_id, "model": f"DiT-{size}/{patch}", "size": size, "patch_size": patch,
                        "variant": "baseline", "formulation": "ddpm", "block": "adaln_zero", "mask_ratio": 0.0,
                        "data": "digits", "resolution": RESOLUTION, "lr": 1e-3, "global_batch": 32, "micro_batch": 32,
                        "precision": "bf16", "strategy": "zero1", "zero_stage": 1, "accelerators": 1,
                        "images_per_second": 1.0 / (2e-4 + macs * 2e-11), "mfu": np.nan,
                        "peak_memory_bytes": 2 ** 30 + 18 * parameters, "inference_parameters": parameters,
                        "score_error": np.nan, "evaluation_seconds": 1.0, "evaluation_flops": 2e5 * macs,
                        "seed": seed, "parameters": parameters,
                        "tokens": tokens, "macs": macs, "train_flops_per_image": 6 * macs, "images_seen": images_seen,
                        "final": final, "train_flops": train_flops, "metric": "fd_digits_cnn", "score": score,
                        "floor": FLOOR, "samples": 2000, "guidance_scale": 1.0, "nfe": 50, "passport": "5f1d0c2ab3e4",
                        "sample_seeds": 1, "passport_fields": "{}",
                        "train_seconds": images_seen * (2e-4 + macs * 2e-11), "device": "cpu",
                        "sample_sheet": str(write_sheet(sheets, run_id, score)) if sheets and final else "",
                    })
    return pd.DataFrame(rows)


PASSPORT = {"metric": "fd_digits_cnn", "samples": 2000, "sampler": "heun", "nfe": 50, "sampling_steps": 25, "guidance_scale": 1.0,
            "formulation": "ddpm", "seed": 0}


def with_passport(table: pd.DataFrame, **fields) -> pd.DataFrame:
    """The table with passports stated in full, these fields changed; columns of the same name follow."""
    stated = {**PASSPORT, **fields}
    columns = {name: value for name, value in fields.items() if name in table}
    return table.assign(passport=digest(stated, without=("seed",)), passport_fields=json.dumps(stated, sort_keys=True), **columns)


def with_metrics(table: pd.DataFrame) -> pd.DataFrame:
    """The table with five further metrics, each a function of the score."""
    score = table["score"]
    return table.assign(**{"values.sfid": 0.6 * score + 4.0, "values.is": 9.0 / (1.0 + score / 30.0), "values.is_std": 0.1,
                           "values.precision": 0.95 / (1.0 + score / 60.0), "values.recall": 0.7 / (1.0 + score / 90.0),
                           "values.kid": 1e-3 * score - 1e-3})


def make_sweep(table: pd.DataFrame, values, best: float, column: str = "lr", variant: str = "baseline", noise: float = 0.03,
               model: str = "DiT-pico/2") -> pd.DataFrame:
    """The end of one model's runs at each value of a column: a parabola in the logarithm of the score, lowest at ``best``."""
    rows = table[(table["model"] == model) & table["final"]]
    rng = np.random.default_rng(rows["macs"].iloc[0])
    parts = []
    for value in values:
        score = 8.0 * (rows["macs"] / 1e7) ** -0.15 * np.exp(((value - best) / np.ptp(values)) ** 2 + noise * rng.standard_normal(len(rows)))
        parts.append(rows.assign(variant=variant, score=score, run_id=rows["run_id"] + f"-{variant}-{value}", **{column: value}))
    return with_passport(pd.concat(parts, ignore_index=True))


def make_blocks(table: pd.DataFrame) -> pd.DataFrame:
    """Four block designs of one model, in the order of DiT's Figure 5."""
    rows = table[table["model"] == "DiT-nano/2"]
    facts = {"in_context": (1.5, 1.0), "cross_attention": (1.25, 1.15), "adaln": (1.15, 0.995), "adaln_zero": (1.0, 0.995)}
    return pd.concat([rows.assign(block=block, run_id=rows["run_id"] + block, score=rows["score"] * factor,
                                  train_flops=rows["train_flops"] * cost)
                      for block, (factor, cost) in facts.items()], ignore_index=True)


def write_losses(folder: Path, table: pd.DataFrame, lines: int = 200) -> None:
    """Run directories of the table's runs with metrics.jsonl alone, and their run.json: the terms of each variant."""
    terms = {"baseline": ["generative"], "masked": ["generative", "reconstruction"], "mdt": ["generative_full", "generative_masked"]}
    for number, (run_id, own) in enumerate(table.groupby("run_id", sort=False)):
        rng, end, run = np.random.default_rng(number), own["images_seen"].max(), folder / run_id
        run.mkdir(parents=True)
        (run / "run.json").write_text("{}")
        macs, variant = own["macs"].iloc[0], own["variant"].iloc[0]
        with open(run / "metrics.jsonl", "w") as file:
            for i in range(1, lines + 1):
                clean = (0.15 + 1.2 * i ** -0.5) * (macs / 1e5) ** -0.04
                losses = {f"loss/{term}": clean * (1 + 0.2 * k) * np.exp(0.05 * rng.standard_normal())
                          for k, term in enumerate(terms[variant])}
                file.write(json.dumps({"images_seen": int(end * i / lines), **losses, "lr": 1e-3}) + "\n")


def write_sheet(folder: Path, run_id: str, score: float) -> Path:
    """Bars at the class's height under noise that grows with the score; two images a class."""
    rng = np.random.default_rng(1)
    labels = np.tile(np.arange(CLASSES), 2)
    images = np.zeros((len(labels), RESOLUTION, RESOLUTION, 1))
    for image, label in zip(images, labels):
        image[label % RESOLUTION, 1:7] = 220
    images += 6.0 * score * rng.standard_normal(images.shape)
    path = folder / f"{run_id}.npz"
    np.savez(path, images.clip(0, 255).astype(np.uint8), labels)
    return path


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    return make_study(tmp_path)


@pytest.fixture(scope="session")
def study():
    """The builder itself, for tables of other shapes."""
    return make_study


@pytest.fixture(scope="session")
def made():
    """What makes studies of other shapes from the rows of ``study``."""
    return SimpleNamespace(sweep=make_sweep, blocks=make_blocks, passport=with_passport, metrics=with_metrics, losses=write_losses)


@pytest.fixture
def serve(monkeypatch):
    """Makes the ledger answer with a given table, whatever directory it is asked for."""
    def answer(frame):
        found = frame.rename(columns={"sample_seeds": "sample_seed"})
        monkeypatch.setattr("ditscale.studies.table.ledger.collect", lambda study_dir: found.copy())
    return answer
