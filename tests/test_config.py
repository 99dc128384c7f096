"""The config: what is wrong is named, with its value and what would work; identity ignores what does not change the result."""

import ast
import copy
import importlib
import inspect

import pytest

from ditscale.config import resolve
from ditscale.diffusion.registry import FORMULATIONS
from ditscale.dotted import parse_override, set_key
from ditscale.errors import UserError
from ditscale.models.sizes import parse_model_name
from ditscale.objectives import VARIANTS
from ditscale.section import MOST_DEEP, MOST_WIDE
from ditscale.studies.launchers import launchers
from ditscale.training.optimizers import OPTIMIZERS


@pytest.mark.parametrize("key, value, words", [
    ("train.optimizer", "sgd", ["'train.optimizer' is 'sgd'", "write {name: sgd}", "train.optimizer.name=sgd"]),
    ("objective", "masked", ["'objective' is 'masked'", "objective.name=masked"]),
    ("train.optimizer", {"name": "lion"}, ["'train.optimizer.name' is 'lion'. Optimizers: adamw, sgd, muon"]),
    ("train.lrr", 1e-3, ["unknown key 'train.lrr'", "did you mean 'lr'"]),
    ("trian", {}, ["unknown key 'trian'", "did you mean 'train'"]),
    ("train.lr", "fast", ["'train.lr' is 'fast'", "number"]),
    ("train.images", 0.5, ["'train.images' is 0.5"]),
    ("train.images", 10, ["train.images 10 is less than one batch"]),
    ("model.name", "DiT-nan/2", ["no size 'nan'", "did you mean 'nano'", "XL"]),
    ("model.name", "DiT-S/3", ["patch size 3 does not divide the input's 8 pixels per side", "1, 2, 4, 8"]),
    ("model.name", "DiT-S/0", ["no patch size 0", "2, 4, 8"]),
    ("data.flip", 3, ["'data.flip' is 3: should be a valid boolean or 'mirror'"]),
    ("train.betas", 3, ["'train.betas' is 3: should be a list"]),
    ("objective", [], ["'objective' is []: it is a section of its own"]),
    ("model.patch_bottleneck", 1_000_000_000, ["'model.patch_bottleneck' is 1000000000: should be less than or equal to 99999"]),
    ("model.base_width", 10**9, ["'model.base_width' is 1000000000: should be less than or equal to 99999"]),
    ("objective", {"name": "baseline", "with": [{"name": "sra2", "hidden": 10**9}]}, ["with sra2: 'hidden' is 1000000000: should be less than or equal"]),
    ("objective", {"name": "baseline", "with": [{"name": "repa", "features": "a", "feature_width": 10**9}]}, ["'feature_width' is 1000000000: should be less"]),
    ("objective", {"name": "masked", "decoder_width": 10**9}, ["'objective.decoder_width' is 1000000000: should be less than or equal to 99999"]),
    ("objective", {"name": "masked", "decoder_depth": 10**9}, ["'objective.decoder_depth' is 1000000000: should be less than or equal to 9999"]),
    ("objective", {"name": "discriminative", "prototypes": 10**9}, ["'objective.prototypes' is 1000000000: should be less than or equal to 1000000"]),
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


@pytest.mark.parametrize("key, value", [("data.flip", 3), ("formulation", {"name": "flow", "time_shift": -1.0}), ("evaluation.labels", "x"),
                                        ("resources.micro_batch", "x"), ("objective", {"name": "baseline", "with": [{"name": "dispersive", "block": 0}]})])
def test_a_value_of_several_kinds_is_one_error(values, key, value):
    """Of which pydantic has one for each kind that it tried."""
    set_key(values, key, value)
    with pytest.raises(UserError) as error:
        resolve(values, "spec.yaml")
    assert "more" not in str(error.value) and " or " in str(error.value) and str(error.value).count(" is ") == 1


def test_a_layer_is_as_wide_and_a_stack_as_deep_as_a_model_may_be():
    parse_model_name(f"DiT-{MOST_DEEP}x{MOST_WIDE - MOST_WIDE % 64}/2")
    for name in (f"DiT-1x{MOST_WIDE + 1}x1/2", f"DiT-{MOST_DEEP + 1}x64/2"):
        with pytest.raises(UserError, match="is not of the form"):
            parse_model_name(name)


FOREIGN = "unknown key 'formulation.%s' for formulation %s; it is an option of %s. Keys here: name"


@pytest.mark.parametrize("formulation, evaluation, words", [
    ({"name": "flwo"}, {}, ["'formulation.name' is 'flwo'", "did you mean 'flow'", "ddpm, edm, flow"]),
    ({"interpolant": "linear"}, {}, ["'formulation.name' is missing"]),
    ({"name": "flow", "schedule": "linear"}, {}, [FOREIGN % ("schedule", "flow", "ddpm")]),
    ({"name": "ddpm", "sigma_data": 0.5}, {}, [FOREIGN % ("sigma_data", "ddpm", "edm")]),
    ({"name": "edm", "sigma_dta": 0.5}, {}, ["unknown key 'formulation.sigma_dta'", "did you mean 'sigma_data'"]),
    ({"name": "ddpm", "schedule": "square"}, {}, ["'formulation.schedule' is 'square'", "'linear' or 'cosine'"]),
    ({"name": "edm", "sigma_min": 90.0}, {}, ["formulation.sigma_min 90.0 must be below formulation.sigma_max 80.0"]),
    ({"name": "flow", "logit_std": 2.0}, {}, ["logit_normal"]),
    ({"name": "flow"}, {"sampler": "ddim"}, ["evaluation.sampler 'ddim'", "heun, euler, sde would"]),
    ({"name": "flow"}, {"eta": 0.5}, ["evaluation.eta is for sampler ddim"]),
    ({"name": "flow"}, {"sampler": "euler", "churn": 2.0}, ["evaluation.churn is for formulation edm"]),
    ({"name": "flow"}, {"sde_norm": 1.0}, ["evaluation.sde_norm is for sampler sde"]),
    ({"name": "flow"}, {"sampler": "euler", "sde_last": "mean"}, ["evaluation.sde_last is for sampler sde"]),
    ({"name": "flow"}, {"sampler": "sde", "sde_norm": 0.0}, ["'evaluation.sde_norm' is 0.0"]),
    ({"name": "flow"}, {"sampler": "sde", "sde_last": "euler"}, ["'velocity', 'mean' or 'tweedie'"]),
    ({"name": "edm"}, {"heun_last": "heun"}, ["evaluation.heun_last is for sampler heun and formulation flow"]),
    ({"name": "flow"}, {"rounding": "ceil"}, ["'nearest' or 'floor'"]),
    ({"name": "flow", "time_scale": 0.0}, {}, ["'formulation.time_scale' is 0.0"]),
    ({"name": "ddpm", "time_scale": 1.0}, {}, [FOREIGN % ("time_scale", "ddpm", "flow")]),
    ({"name": "ddpm"}, {"sampling_steps": 1001, "sampler": "ddpm"}, ["evaluation.sampling_steps 1001", "1000 training timesteps"]),
    ({"name": "ddpm"}, {"sampler": "ddpm", "respacing": [10, 15]}, ["evaluation.sampling_steps=25 would fit"]),
    ({"name": "ddpm"}, {"sampler": "ddpm", "timesteps": [0, 500, 1000]}, ["from 0 to 999"]),
    ({"name": "ddpm"}, {"guidance_interval": [700.0, 300.0]}, ["evaluation.guidance_interval [700.0, 300.0] is reversed"]),
    ({"name": "flow"}, {"guidance_interval": [0.2, 700.0]}, ["is outside flow's levels: t, from 0 to 1"]),
    ({"name": "edm"}, {"churn": 2.0, "churn_interval": [5.0, 1.0]}, ["evaluation.churn_interval [5.0, 1.0]", "lower to higher"]),
])
def test_formulation_and_sampling_mistakes_are_named(values, formulation, evaluation, words):
    values["formulation"] = formulation
    values["evaluation"].update(evaluation)
    with pytest.raises(UserError) as error:
        resolve(values, "spec.yaml")
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("formulation, evaluation", [
    ({"name": "ddpm", "min_snr_gamma": 5.0}, {"sampler": "ddpm", "sampling_steps": 25, "respacing": [10, 15]}),
    ({"name": "ddpm"}, {"sampler": "ddim", "eta": 1.0, "timesteps": [0, 500, 999]}),
    ({"name": "edm", "p_mean": -0.4}, {"churn": 40.0, "churn_interval": [0.05, 50.0], "guidance_interval": [0.3, 5.0]}),
    ({"name": "flow", "interpolant": "cosine"}, {"sampler": "sde", "sde_diffusion": "kl", "guidance_schedule": "power_cosine"}),
    ({"name": "flow", "time_scale": 1.0}, {"sampler": "sde", "sde_norm": 1.0, "sde_last": "mean", "rounding": "floor"}),
    ({"name": "ddpm"}, {}),
])
def test_a_config_survives_its_own_record(values, formulation, evaluation):
    """``run.json`` holds the dumped config; reading it back gives the same run."""
    values["formulation"] = formulation
    values["evaluation"].update(evaluation)
    config = resolve(values, "x")
    again = resolve(config.model_dump(mode="json"), "run.json")
    assert again == config and again.science_hash() == config.science_hash()


@pytest.mark.parametrize("section, key, default, other", [
    ("formulation", "time_scale", 1000.0, 1.0), ("evaluation", "rounding", "nearest", "floor"),
    ("evaluation", "heun_last", "euler", "heun")])
def test_an_option_at_its_default_renames_no_run(values, section, key, default, other):
    before = resolve(values, "x").science_hash()
    values[section][key] = default
    assert resolve(values, "x").science_hash() == before
    values[section][key] = other
    assert resolve(values, "x").science_hash() != before


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


@pytest.mark.parametrize("objective, words", [
    ({"name": "maskd"}, ["'objective.name' is 'maskd'", "did you mean 'masked'", "baseline, masked, mdt, discriminative, tread, sprint"]),
    ({"name": "mdt", "reconstruction_weight": 0.1}, ["unknown key 'objective.reconstruction_weight' for objective mdt",
                                                     "it is an option of masked"]),
    ({"name": "masked", "mask_ratio": 1.0}, ["objective.mask_ratio' is 1.0", "less than 1"]),
    ({"name": "masked", "decoder_depth": 0}, ["decoder_depth 0", "mask_ratio 0, which is the baseline"]),
    ({"name": "masked", "decoder_width": 24, "decoder_heads": 5}, ["objective.decoder_width 24", "multiple of decoder_heads 5"]),
    ({"name": "masked", "unmasking_images": 1000}, ["objective.unmasking_images 1000 is more than train.images 640"]),
    ({"name": "masked", "mask_power": 4.0}, ["objective.mask_power 4.0 is for mask_schedule cosine; it is constant"]),
    ({"name": "masked", "unmasking_lr": 1e-4}, ["objective.unmasking_lr", "unmasking_images"]),
    ({"name": "mdt", "decoder_depth": 4}, ["objective.decoder_depth 4 leaves no encoder", "4 blocks", "at most 3"]),
    ({"name": "mdt", "mask_ratio": 0.5, "mask_ratio_max": 0.3}, ["objective.mask_ratio_max 0.3 is not above mask_ratio 0.5"]),
    ({"name": "discriminative", "teacher_noise": "cleanest"}, ["objective.teacher_noise", "'sigma_min', 'same'"]),
    ({"name": "discriminative", "teacher_noise_ratio": 0.2}, ["objective.teacher_noise_ratio is for teacher_noise ratio"]),
    ({"name": "discriminative", "cls_weight": 0.0, "patch_weight": 0.0, "detach_encoder_for_generation": True}, ["nothing would train"]),
    ({"name": "discriminative", "decoder_depth": 0}, ["objective.decoder_depth 0"]),
])
def test_objective_mistakes_are_named(values, objective, words):
    values["objective"] = objective
    with pytest.raises(UserError) as error:
        resolve(values, "spec.yaml")
    for word in words:
        assert word in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_a_zero_null_class_needs_label_drops(values):
    values["model"] |= {"null_class": "zero", "class_dropout_prob": 0.0}
    with pytest.raises(UserError, match="model.null_class zero with model.class_dropout_prob 0"):
        resolve(values, "spec.yaml")


def test_one_token_cannot_be_masked(values):
    values["model"]["name"], values["objective"] = "DiT-atto/8", {"name": "masked"}
    with pytest.raises(UserError, match="masks none of the model's 1 token; a smaller patch size would give more"):
        resolve(values, "spec.yaml")


@pytest.mark.parametrize("objective", [{"name": "masked", "unmasking_images": 64}, {"name": "mdt", "long_skips": True, "mask_ratio_max": 0.5},
                                       {"name": "discriminative", "teacher_noise": "ratio", "teacher_noise_ratio": 0.3},
                                       {"name": "tread", "start": 1, "end": 1}, {"name": "sprint", "unmasking_images": 64}])
def test_a_variants_config_survives_its_own_record(values, objective):
    values["objective"] = objective
    config = resolve(values, "x")
    assert resolve(config.model_dump(mode="json"), "run.json") == config


@pytest.mark.parametrize("model, decoder, head", [
    ("DiT-XL/2", (8, 512, 16), (2048, 256, 8192)), ("DiT-S/2", (8, 512, 16), (2048, 256, 8192)),
    ("DiT-tiny/2", (3, 96, 3), (384, 96, 768)), ("DiT-nano/2", (1, 64, 2), (256, 64, 512)), ("DiT-atto/2", (1, 16, 1), (64, 16, 128)),
])
def test_default_decoder_and_head(values, model, decoder, head):
    values["model"]["name"], values["objective"] = model, {"name": "discriminative"}
    config = resolve(values, "x")
    dims = parse_model_name(model).dims
    assert tuple(config.objective.decoder(dims)) == decoder and tuple(config.objective.head(dims)) == head


@pytest.mark.parametrize("module, alias, listed", [
    ("config", "FormulationConfig", FORMULATIONS), ("config", "ObjectiveConfig", VARIANTS.values()),
    ("config", "OptimizerConfig", OPTIMIZERS.values()),
    ("studies.launchers", "Site", [one.settings for one in launchers() if one.settings])])
def test_what_a_type_checker_sees_is_what_the_registry_holds(module, alias, listed):
    tree = ast.parse(inspect.getsource(importlib.import_module(f"ditscale.{module}")))
    [types] = [node.body for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    [union] = [node.value for node in types if isinstance(node, ast.Assign) and node.targets[0].id == alias]
    assert {node.id for node in ast.walk(union) if isinstance(node, ast.Name)} == {kind.__name__ for kind in listed}


def test_a_series_is_a_recipe_without_size_rate_and_parametrization(values):
    base = resolve(values, "test")

    def changed(key, value):
        other = copy.deepcopy(values)
        set_key(other, key, value)
        return resolve(other, "test")
    for key, value in (("train.lr", 0.5), ("model.name", "DiT-nano/4"), ("seed", 9)):
        assert changed(key, value).series() == base.series(), key
    for key, value in (("train.lr_schedule", "wsd"), ("model.block", "adaln"), ("train.betas", [0.9, 0.99]), ("objective", {"name": "masked"})):
        assert changed(key, value).series() != base.series(), key


@pytest.mark.parametrize("changes, words", [({"train.lr_schedule": "wsd", "train.lr_end": 1.0}, "train.lr_end 1 is above train.lr"),
                                            ({"train.lr_end": 1e-6}, "has no effect with train.lr_schedule constant")])
def test_a_schedules_end_that_makes_no_sense(values, changes, words):
    for key, value in changes.items():
        set_key(values, key, value)
    with pytest.raises(UserError, match=words):
        resolve(values, "test")
