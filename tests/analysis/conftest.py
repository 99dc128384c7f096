"""A made-up study with the columns of ``ditscale.studies.ledger.collect``."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
                        "variant": "baseline", "formulation": "ddpm", "seed": seed, "parameters": parameters,
                        "tokens": tokens, "macs": macs, "train_flops_per_image": 6 * macs, "images_seen": images_seen,
                        "final": final, "train_flops": train_flops, "metric": "fd_digits_cnn", "score": score,
                        "floor": FLOOR, "samples": 2000, "guidance_scale": 1.0, "nfe": 50, "passport": "5f1d0c2ab3e4",
                        "sample_seeds": 1, "passport_fields": "{}",
                        "train_seconds": images_seen * (2e-4 + macs * 2e-11), "device": "cpu",
                        "sample_sheet": str(write_sheet(sheets, run_id, score)) if sheets and final else "",
                    })
    return pd.DataFrame(rows)


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


@pytest.fixture
def serve(monkeypatch):
    """Makes the ledger answer with a given table, whatever directory it is asked for."""
    def answer(frame):
        found = frame.rename(columns={"sample_seeds": "sample_seed"})
        monkeypatch.setattr("ditscale.studies.ledger.collect", lambda study_dir: found.copy())
    return answer
