"""Values that many tests start from."""

import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest

BASE = {
    "model": {"name": "DiT-atto/4"},
    "data": {"name": "digits", "path": "data/digits/train.beton", "resolution": 8, "channels": 1, "classes": 10},
    "formulation": {"name": "flow"},
    "objective": {"name": "baseline"},
    "train": {"images": 640, "global_batch": 64, "lr": 1e-3, "ema_decay": 0.9, "checkpoint_every_images": 320},
    "evaluation": {"extractor_path": "data/digits/digits_cnn.safetensors", "reference_path": "data/digits/heldout.beton",
                   "samples": 64, "sampling_steps": 3},
}


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test draws the same numbers in every run, alone or among others."""
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def values():
    """A valid run config as plain values, to be changed at will."""
    return copy.deepcopy(BASE)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with the demo's data and feature network, built once."""
    from ditscale.data.digits import build_digits
    from ditscale.evaluation.extractors.digits_cnn import train_digits_cnn

    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder)
    train_digits_cnn(folder / "train.beton", folder / "heldout.beton", folder / "digits_cnn.safetensors")
    return folder


@pytest.fixture
def digits_values(values, digits):
    """``values`` with paths into the built data."""
    values["data"]["path"] = str(digits / "train.beton")
    values["evaluation"]["extractor_path"] = str(digits / "digits_cnn.safetensors")
    values["evaluation"]["reference_path"] = str(digits / "heldout.beton")
    return values


@pytest.fixture(scope="session")
def repository():
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared(repository):
    """The folder of sample data that lies beside the checkout, or where DITSCALE_SHARED says."""
    folder = Path(os.environ.get("DITSCALE_SHARED", repository.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set DITSCALE_SHARED to the folder above data/")
    return folder
