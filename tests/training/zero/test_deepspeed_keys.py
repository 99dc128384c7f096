"""What a DeepSpeed JSON may say: every key of the installed DeepSpeed is in the table; what is wrong is one line before a start."""

import copy
import json

import pytest

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.objectives.from_config import build_model
from ditscale.training.zero import private, zero
from ditscale.training.zero.deepspeed_keys import (
    ALLOWED,
    BF16,
    BOOL,
    COUNT,
    DATA_TYPES,
    IDLE,
    LIST,
    OFFLOAD_OPTIMIZER,
    OFFLOAD_PARAM,
    POSITIVE,
    REFUSED,
    RUN,
    SECTION,
    SHARE,
    TEXT,
    TOP,
    ZERO,
)
from ditscale.training.zero.strategy import deepspeed_config, sharding
from ditscale.training.zero.strategyfile import read_strategy

pytestmark = pytest.mark.usefixtures("in_repository")


@pytest.fixture
def made(values, tmp_path):
    """``made(settings, {"train.lr": 1e-4})``: what DeepSpeed would be given for a strategy, as values or as text."""
    from ditscale.dotted import set_key

    def make(settings, changes={}, ranks=1):
        path = tmp_path / "strategy.json"
        path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
        for key, value in {"resources.deepspeed": str(path), "resources.accelerators_per_run": ranks, **changes}.items():
            set_key(values, key, value)
        return deepspeed_config(resolve(values, "test"), ranks)
    return make


@pytest.fixture
def refused(made):
    """The one line that is said of a strategy."""
    def said(settings, changes={}):
        with pytest.raises(UserError) as error:
            made(settings, changes)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
        return str(error.value)
    return said


class Asked(dict):
    """A config that notes which keys it is asked for."""

    def __init__(self, values, seen):
        super().__init__(values)
        self.seen = seen

    def __copy__(self):
        return Asked(self, self.seen)

    def get(self, key, default=None):
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.seen.add(key)
        return super().__contains__(key)

    def keys(self):
        return self


def fields(model):
    """The names that a pydantic model takes."""
    return {name for field, info in model.model_fields.items() for name in (field, info.alias) if name}


def test_every_key_of_the_installed_deepspeed_is_in_the_table(world):
    """A new DeepSpeed that brings a key, or drops one, is to be read first."""
    from deepspeed.runtime import config, precision_config
    from deepspeed.runtime.zero import offload_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    seen = set()
    config.DeepSpeedConfig(Asked({"train_batch_size": 1, "data_types": Asked({}, nested := set())}, seen))
    assert len(seen) > 40
    assert seen | {*config._REMOVED_TOP_LEVEL_CONFIG_KEYS} == {*TOP}
    assert nested == {*DATA_TYPES}
    assert fields(DeepSpeedZeroConfig) | {*config._REMOVED_ZERO_CONFIG_KEYS} == {*ZERO}
    assert fields(offload_config.DeepSpeedZeroOffloadOptimizerConfig) == {*OFFLOAD_OPTIMIZER} - {"pipeline"}
    assert fields(offload_config.DeepSpeedZeroOffloadParamConfig) <= {*OFFLOAD_PARAM}
    assert fields(precision_config.DeepSpeedBF16Config) == {*BF16}


RIGHT = {BOOL: [True, False], COUNT: [0, 5e8], POSITIVE: [1, 5e8], SHARE: [1.0], LIST: [[]], SECTION: [{}]}
WRONG = {BOOL: ["true", 1, None], COUNT: ["5e8", -1, 1.5, True, [1]], POSITIVE: ["5e8", 0, 1.5, None], LIST: ["x"],
         SECTION: ["cpu", 3, [1], None]}


def of_kind(table, kind, prefix=()):
    for name, key in table.items():
        if key.kind == kind:
            yield (*prefix, name), key
        if key.keys:
            yield from of_kind(key.keys, kind, (*prefix, name))


def nested(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


@pytest.mark.parametrize("path, key", [pytest.param(path, key, id=".".join(path)) for path, key in of_kind(TOP, ALLOWED)])
def test_what_is_allowed_deepspeed_takes_and_another_type_is_named_before_the_start(made, refused, world, path, key):
    import deepspeed

    for value in key.type if isinstance(key.type, tuple) else RIGHT[key.type]:
        settings = nested(path, copy.copy(value))
        settings.setdefault("zero_optimization", {}).setdefault("stage", 1)
        deepspeed.DeepSpeedConfig(made(settings, {"train.precision": "fp32"}))
    for value in ["x", None, 3.5] if isinstance(key.type, tuple) else WRONG[key.type]:
        if value is None and None in key.off:
            continue                                                           # DeepSpeed's own default
        words = refused(nested(path, value))
        assert path[-1] in words and "give" in words or "stages are 0, 1, 2 and 3" in words


@pytest.mark.parametrize("path, key", [pytest.param(path, key, id=".".join(path)) for path, key in of_kind(TOP, REFUSED)])
def test_what_is_refused_says_why_and_nothing_of_it_reaches_deepspeed(made, refused, path, key):
    off = [*key.off, "auto", *([{key.switch: False}, {key.switch: "auto", "x": 1}] if key.switch else [])]
    plain = made({"zero_optimization": {"stage": 1}})
    for value in off:
        settings = nested(path, value)
        settings.setdefault("zero_optimization", {})["stage"] = 1
        assert made(settings) == plain, value
    on = {BOOL: key.off != (True,), SECTION: {key.switch or "x": True}, COUNT: 4, TEXT: "sum", LIST: ["norm"], SHARE: 0.5,
          "a number": 2.0}
    assert f"'{'.'.join(path)}', but {key.why}; drop the" in refused(nested(path, on[key.type]))


@pytest.mark.parametrize("path", [pytest.param(path, id=".".join(path)) for path, _ in of_kind(TOP, IDLE)])
def test_what_has_no_effect_here_is_left_out(made, tmp_path, path):
    settings = nested(path, {"anything": 1})
    settings.setdefault("zero_optimization", {})["stage"] = 1
    found, idle = made(settings), read_strategy(tmp_path / "strategy.json").idle
    assert found == made({"zero_optimization": {"stage": 1}}) and ".".join(path) in idle


def test_every_key_says_why(made):
    for kind in (RUN, IDLE, REFUSED):
        assert all(key.why for _, key in of_kind(TOP, kind))


@pytest.mark.parametrize("settings, words", [
    ({"gradient_allreduce_op": "sum"}, "the gradient is the mean"),
    ({"gradient_predivide_factor": 2.0}, "the run id does not show that"),
    ({"prescale_gradients": True}, "the run id does not show that"),
    ({"communication_data_type": "fp32"}, 'communication_data_type = "fp32" but the run config makes it "bf16"'),
    ({"communication_data_type": "fp16"}, 'makes it "bf16"'),
    ({"data_types": {"grad_accum_dtype": "fp32"}}, "train.grad_sums decides, at stage 2 or 3"),
    ({"data_types": {"grad_acum_dtype": "fp32"}}, "did you mean 'grad_accum_dtype'?"),
    ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "averages and checkpoints need fp32 masters"),
    ({"bf16": {"enabled": False}}, "bf16.enabled = false but the run config makes it true"),
    ({"optimizer": {"type": "AdamW", "params": {"lr": 0.5}}}, "optimizer.params.lr = 0.5 but the run config makes it 0.001"),
    ({"optimizer": {"type": "AdamW", "params": {"amsgrad": True}}}, "it has no such option"),
    ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}}, "the learning rate is train.lr"),
    ({"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto"}}}, "the learning rate is train.lr"),
    ({"zero_optimisation": {"stage": 2}}, "unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"),
    ({"gradient_cliping": 1.0}, "did you mean 'gradient_clipping'?"), ({"steps_per_print": "auto"}, "give a whole number above 0"),
    ({"zero_optimization": {"stage": 2, "reduce_bucket": 1}}, "did you mean 'reduce_bucket_size'?"),
    ({"zero_optimization": {"stage": "auto"}}, "stages are 0, 1, 2 and 3"),
    ('{"zero_optimization": {"stage": 1}, "zero_optimization": {"stage": 2}}', "has the key 'zero_optimization' twice"),
    ('{"zero_optimization": {"reduce_bucket_size": NaN}}', "give a whole number above 0"), ("[" * 10**5, "is not readable"),
    ('{"zero_optimization": {"reduce_bucket_size": 1e999}}', "give a whole number above 0"), ("{'a': 1}", "is not readable JSON"),
    ("9" * 5000, "is not readable JSON"), ("[1]", "expected a JSON object"), ("", "is not readable JSON"),
])
def test_what_would_change_a_result_or_fail_at_the_start(refused, settings, words):
    assert words in refused(settings)


@pytest.mark.parametrize("path", ["nowhere.json", ".", "a\0b"])
def test_files_that_cannot_be_read(values, path):
    values["resources"] = {"deepspeed": path}
    with pytest.raises(UserError, match="resources.deepspeed"):
        deepspeed_config(resolve(values, "test"), 1)
    with pytest.raises(UserError, match="resources.deepspeed"):
        sharding(path)


def test_a_file_for_hugging_faces_trainer_is_taken(made):
    """The one in its documentation: each "auto" is a value that the run config has, or DeepSpeed's default."""
    host = {"device": "cpu", "pin_memory": True}
    zero_part = {"stage": 3, "offload_optimizer": host, "offload_param": host, "overlap_comm": True,
                 "contiguous_gradients": True, "sub_group_size": 1e9, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
                 "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9,
                 "stage3_gather_16bit_weights_on_model_save": True}
    found = made({
        "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2,
                 "min_loss_scale": 1},
        "bf16": {"enabled": "auto"}, "zero_optimization": zero_part,
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
        "gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "steps_per_print": 2000, "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto", "wall_clock_breakdown": False})
    kept = {name: value for name, value in zero_part.items() if value != "auto" and "gather" not in name}
    assert found["zero_optimization"] == kept and "optimizer" not in found and "scheduler" not in found and "fp16" not in found
    assert found["train_batch_size"] == 64 and found["bf16"]["enabled"] is True and found["steps_per_print"] == 2000


def test_what_repeats_the_run_config_is_taken(made):
    said = {"train_batch_size": 64, "gradient_clipping": 0, "bf16": {"enabled": True, "check_grad_overflow": True},
            "communication_data_type": "bfloat16", "data_types": {"grad_accum_dtype": "bf16", "param_dtype": "auto"},
            "optimizer": {"type": "adamw", "params": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}}}
    assert made({"zero_optimization": {"stage": 2}, **said}) == made({"zero_optimization": {"stage": 2}})


def test_sums_in_fp32_are_the_runs_own_and_part_of_its_identity(made, refused, values):
    before = resolve(values, "test").science_hash()
    found = made({"zero_optimization": {"stage": 2}, "data_types": {"grad_accum_dtype": "float32"}}, {"train.grad_sums": "fp32"})
    assert found["data_types"] == {"grad_accum_dtype": "fp32"}
    assert resolve(values, "test").science_hash() != before
    assert "use stage 2" in refused({"zero_optimization": {"stage": 1}})
    with pytest.raises(UserError, match="train.grad_sums fp32 is for train.precision bf16"):
        made({"zero_optimization": {"stage": 2}}, {"train.precision": "fp32"})


@pytest.mark.parametrize("name, words", [
    ("ds_bf16_auto.json", ""), ("ds_bucket_text.json", "zero_optimization.allgather_bucket_size = \"5e8\""),
    ("ds_unknown_key.json", "unknown key 'zero_optimization.no_such_key'"),
    ("ds_offload_text.json", 'offload_optimizer = "cpu", which is a string; give an object, for example {"device": "cpu"}')])
def test_given_files(shared_folder, made, refused, name, words):
    text = (shared_folder("inputs") / name).read_text()
    if words:
        assert words in refused(text)
    else:
        assert made(text)["bf16"]["enabled"] is True


@pytest.mark.parametrize("settings, words", [
    ({"train_batch_size": 1, "zero_optimization": {"stage": 7, "overlap": 1}}, "stage: Input should be 0, 1, 2"),
    ({"train_batch_size": 3, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}, "Check batch related"),
    ({"train_batch_size": 1, "amp": {}}, "NVIDIA Apex"), ({"train_batch_size": "auto"}, "refuses")])
def test_what_deepspeed_itself_refuses_is_one_line(world, monkeypatch, make_run, settings, words):
    """The net below the table: whatever a DeepSpeed of tomorrow finds wrong."""
    monkeypatch.setattr(zero, "deepspeed_config", lambda config, ranks: settings)
    config, _ = make_run()
    with pytest.raises(UserError) as said:
        zero.make_engine(build_model(config), config, 1)
    assert words in str(said.value) and "refuses ds_configs/zero1.json" in str(said.value) and "\n" not in str(said.value)


@pytest.mark.parametrize("installed, is_said", [("0.19.0", False), ("0.19.8", False), ("0.19.8+cpu", False), ("0.18.9", True),
                                                ("0.20.0", True), ("1.19.0", True), ("0.190", True)])
def test_a_deepspeed_that_was_not_tested_is_said_in_one_line(installed, is_said):
    note = private.version_note(installed)
    assert bool(note) is is_said and (not is_said or installed in note and "\n" not in note)
