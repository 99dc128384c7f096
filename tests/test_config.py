"""The config: what is wrong is named, with its value and what would work; identity ignores what does not change the result."""

import pytest

from ditscale.config import parse_override, resolve, set_key
from ditscale.errors import UserError


@pytest.mark.parametrize("key, value, words", [
    ("train.lrr", 1e-3, ["unknown key 'train.lrr'", "did you mean 'lr'"]),
    ("trian", {}, ["unknown key 'trian'", "did you mean 'train'"]),
    ("train.lr", "fast", ["'train.lr' is 'fast'", "number"]),
    ("train.images", 0.5, ["'train.images' is 0.5"]),
    ("train.images", 10, ["train.images 10 is less than one batch"]),
    ("model.name", "DiT-nan/2", ["no size 'nan'", "did you mean 'nano'", "XL"]),
    ("model.name", "DiT-S/3", ["no patch size 3", "2, 4, 8"]),
    ("model.name", "nano/2", ["not of the form DiT-<size>/<patch>"]),
    ("data.resolution", 10, ["patch size 4 does not divide", "10"]),
    ("resources.accelerators_per_run", 3, ["train.global_batch 64 does not divide by 3 ranks", "63 or 66"]),
    ("resources.micro_batch", 10, ["resources.micro_batch 10 does not divide the 64 images of a rank"]),
    ("train.precision", "fp16", ["'train.precision' is 'fp16'", "'bf16' or 'fp32'"]),
    ("train.lr", float("nan"), ["finite"]),
    ("train", 3, ["train"]),
])
def test_mistakes_are_named(values, key, value, words):
    set_key(values, key, value)
    with pytest.raises(UserError) as error:
        resolve(values, "spec.yaml")
    message = str(error.value)
    assert message.startswith("spec.yaml: ") and "\n" not in message
    for word in words:
        assert word in message


def test_guidance_needs_label_dropout(values):
    values["model"]["class_dropout_prob"] = 0.0
    values["evaluation"]["guidance_scale"] = 1.5
    with pytest.raises(UserError, match="class_dropout_prob above 0"):
        resolve(values, "spec.yaml")


def test_whole_floats_are_counts(values):
    values["train"]["images"] = 1e6
    assert resolve(values, "x").train.images == 1_000_000


@pytest.mark.parametrize("key, value", [("resources.accelerators_per_run", 2), ("resources.loader", "mmap"),
                                        ("data.path", "/elsewhere.beton"), ("evaluation.reference_path", "/e.beton"),
                                        ("evaluation.batch", 7)])
def test_identity_ignores_resources_and_paths(values, key, value):
    before = resolve(values, "x").science_hash()
    set_key(values, key, value)
    assert resolve(values, "x").science_hash() == before


@pytest.mark.parametrize("key, value", [("seed", 1), ("train.lr", 2e-3), ("model.name", "DiT-atto/2"), ("data.name", "other"),
                                        ("evaluation.guidance_scale", 2.0)])
def test_identity_follows_science(values, key, value):
    before = resolve(values, "x").science_hash()
    set_key(values, key, value)
    assert resolve(values, "x").science_hash() != before


def test_identity_is_pinned(values):
    """Run directories of old studies must be found again: a change of this hash orphans them."""
    assert resolve(values, "x").science_hash() == "c1e2c920"


def test_identity_leaves_defaults_out(values):
    """So an option that is added later, with a default, does not rename old runs."""
    before = resolve(values, "x").science_hash()
    values["train"]["weight_decay"] = 0.0
    assert resolve(values, "x").science_hash() == before


def test_defaults_never_change(values):
    """They are part of the identity of every run that did not state them."""
    for section, names in DEFAULTS.items():
        defaults = {name: field.default for name, field in type(getattr(resolve(values, "x"), section)).model_fields.items()
                    if not field.is_required()}
        assert {name: defaults[name] for name in names} == names


DEFAULTS = {
    "model": {"class_dropout_prob": 0.1},
    "train": {"global_batch": 256, "lr": 1e-4, "warmup_images": 0, "betas": (0.9, 0.999), "weight_decay": 0.0, "grad_clip": 0.0,
              "ema_decay": 0.9999, "precision": "bf16"},
    "evaluation": {"metric": "fd_digits_cnn", "sampler": "heun", "guidance_scale": 1.0, "seed": 0},
}


def test_override_is_read_as_yaml():
    assert parse_override("train.lr=3e-4") == ("train.lr", 3e-4)
    assert parse_override("model.name=[DiT-S/2, DiT-B/2]") == ("model.name", ["DiT-S/2", "DiT-B/2"])
    with pytest.raises(UserError, match="key=value"):
        parse_override("train.lr")
