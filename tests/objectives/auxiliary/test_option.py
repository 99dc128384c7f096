"""The option ``with``: what it takes, what it refuses, and that it leaves run ids, sampling and exports as they are."""

import copy
import itertools
import re

import pytest
import torch
import yaml

from ditscale.config import resolve
from ditscale.cost.runs import run_memory_card
from ditscale.dotted import parse_override, set_key
from ditscale.errors import UserError
from ditscale.evaluation.sampling.model import frozen_model
from ditscale.models.dit import DiT
from ditscale.models.matrices import kind_of
from ditscale.objectives import VARIANTS
from ditscale.objectives.auxiliary import AUXILIARY
from ditscale.objectives.from_config import build_model, inference_model
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.training.fit import largest_that_fits, micro_batches

NEEDED = {"repa": {"encoder": "some.module:encoder", "feature_width": 12, "encoder_macs": 0}}
EVERY = [{"name": name, **NEEDED.get(name, {})} for name in AUXILIARY]


def made(values, *losses, name="baseline", **changes):
    values = copy.deepcopy(values)
    values["objective"] = {"name": name, "with": list(losses)}
    for key, value in changes.items():
        set_key(values, key.replace("__", "."), value)
    return resolve(values, "test")


def test_none_is_the_run_as_before(values):
    """The id is that of a config from before the option."""
    config = resolve(values, "test")
    assert config == made(values) and config.science()["objective"] == {"name": "baseline"} and config.science_hash() == "c1e2c920"
    assert type(build_model(config)) is DiT and config.objective.label == "baseline"


@pytest.mark.parametrize("spelling", ["dispersive", ["dispersive"], {"name": "dispersive"}, [{"name": "dispersive", "weight": 0.5}]])
def test_spellings_of_one_loss_are_one_run(values, spelling):
    values["objective"] = {"name": "baseline", "with": spelling}
    config = resolve(values, "test")
    assert config.science()["objective"] == {"name": "baseline", "with": [{"name": "dispersive"}]} and config.science_hash() == "857e0613"


def test_it_survives_a_record_and_a_yaml_file(values):
    config = made(values, *EVERY)
    for dumped in (config.model_dump(mode="json"), config.model_dump(mode="json", exclude_unset=True),
                   yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))):
        again = resolve(dumped, "test")
        assert again == config and again.science_hash() == config.science_hash()
    assert config.objective.label == "+".join(["baseline", *AUXILIARY])


def test_it_is_swept_and_set_on_the_command_line(values, tmp_path):
    study = {"version": 1, "name": "study", "metric": {"name": "fd_digits_cnn"}, "runs_dir": str(tmp_path / "runs"), "config": values,
             "parameters": {"objective.with": {"values": [[], ["dispersive"], [{"name": "sra2", "weight": 0.3}, "contrastive"]]}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(study))
    runs = expand(load_spec(tmp_path / "spec.yaml"), "test")
    assert [run.config.objective.label for run in runs] == ["baseline", "baseline+dispersive", "baseline+sra2+contrastive"]
    assert runs[1].run_id.startswith("DiT-atto-4-baseline-dispersive-flow-s0-") and runs[0].run_id.startswith("DiT-atto-4-baseline-flow-s0-")
    del study["parameters"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(study))
    [run] = expand(load_spec(tmp_path / "spec.yaml", ("objective.with=[sra2, {name: dispersive, tau: 1.0}]",)), "test")
    assert run.config.objective.label == "baseline+sra2+dispersive" and run.config.objective.auxiliary[1].tau == 1
    assert parse_override("objective.with=sra2") == ("objective.with", "sra2")


@pytest.mark.parametrize("losses, words", [
    (["disprsive"], "objective.with has 'disprsive'; did you mean 'dispersive'?"),
    (["sra2", {"name": "sra2", "weight": 2.0}], "objective.with has sra2 twice"),
    ([3], "objective.with has 3; give a name or {name: ..., weight: ...}"),
    ([{"weight": 1.0}], "give a name or {name: ..., weight: ...}"),
    ([{"name": "dispersive", "tua": 1.0}], "objective.with dispersive: unknown key 'tua'; did you mean 'tau'?"),
    ([{"name": "sra", "distance": "euclid"}], "objective.with sra: 'distance' is 'euclid'"),
    ([{"name": "sra2", "block": 5}], "objective.with sra2: block 5: the model has 4 blocks; give 1 to 4, counted from 1"),
    ([{"name": "sra2", "block": 0}], "objective.with sra2: 'block' is 0: should be greater than 0"),
    ([{"name": "sra", "teacher_block": 7}], "objective.with sra: teacher_block 7: the model has 4 blocks"),
    ([{"name": "dispersive", "group": 24}], "compares groups of 24 images, and 64 images per rank (train.global_batch 64) is no multiple of that; the "
                                            "images of a rank must be a multiple of 24, or set another group"),
])
def test_what_does_not_fit_is_refused(values, losses, words):
    with pytest.raises(UserError) as caught:
        made(values, *losses)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_value_that_is_no_list(values):
    for wrong in (None, 5, True):
        values["objective"] = {"name": "baseline", "with": wrong}
        with pytest.raises(UserError, match="give a list of losses"):
            resolve(values, "test")


@pytest.mark.parametrize("variant, reason", [("masked", "sees only the kept tokens"), ("mdt", "sees only the kept tokens"),
                                             ("discriminative", "a teacher and a head of its own")])
def test_variants_that_cannot_carry_one_say_why(values, variant, reason):
    with pytest.raises(UserError, match=f"objective.with is not for objective {variant}: .*{reason}; use baseline"):
        made(values, "sra2", name=variant, model__name="DiT-nano/2")
    assert not VARIANTS[variant](name=variant).auxiliary


@pytest.mark.parametrize("changes, words", [
    ({"encoder_macs": None}, "objective.with repa: give encoder_macs, the encoder's MACs per image"),
    ({"encoder": None}, "repa needs features, the name of a file of features, or encoder, a function package.module:function"),
    ({"features": "cnn"}, "needs features.*; both are given"),
    ({"features": "cnn", "encoder": None}, "repa: encoder_macs has no effect with features; leave it out"),
    ({"features": "../cnn", "encoder": None, "encoder_macs": None}, "objective.with repa: features '../cnn': a name has letters, digits, _ and -"),
    ({"encoder": "dinov2"}, "encoder 'dinov2' is not of the form package.module:function"),
    ({"stop_images": 640}, "stop_images 640 has no effect, as train.images is 640; leave it out"), ({"feature_width": 0}, "'feature_width' is 0"),
])
def test_repas_options(values, changes, words):
    with pytest.raises(UserError, match=words):
        made(values, {"name": "repa", **NEEDED["repa"], **changes})


def test_the_path_of_an_encoder_is_no_part_of_the_id(values):
    here, there, other = (made(values, "sra2", {"name": "repa", **NEEDED["repa"], **more})
                          for more in ({"encoder_path": "a.pt"}, {"encoder_path": "b.pt"}, {"encoder_options": {"layer": 3}}))
    assert here.science_hash() == there.science_hash() != other.science_hash() and here != there
    assert "encoder_path" not in str(here.science()) and here.objective.auxiliary[1].encoder_path == "a.pt"


def test_a_block_that_does_not_see_all_tokens_is_refused(values, monkeypatch):
    """Of a variant that routes tokens around its second block."""
    monkeypatch.setattr(VARIANTS["baseline"], "has_all_tokens", lambda self, block, depth: block != 2)
    made(values, {"name": "sra2", "block": 1}, {"name": "dispersive", "block": 3})
    with pytest.raises(UserError, match="sra2: block 2: with objective baseline it does not see all tokens.*; blocks that do, counted from 1: 1, 3, 4"):
        made(values, {"name": "sra2", "block": 2})


def test_contrastive_is_refused_under_ddpm(values):
    with pytest.raises(UserError, match="contrastive under formulation ddpm: its target is the noise"):
        made(values, "contrastive", formulation={"name": "ddpm"})


def test_a_micro_batch_holds_whole_groups(values):
    dispersive = {"name": "dispersive", "group": 8}
    for micro_batch in (8, 16, 32, 64):
        made(values, dispersive, resources={"micro_batch": micro_batch})
    with pytest.raises(UserError, match=r"resources.micro_batch 4 is no multiple of that; resources.micro_batch 16 or 32 or 64 would work"):
        made(values, dispersive, resources={"micro_batch": 4})
    with pytest.raises(UserError, match="16 images per rank .train.global_batch 64. is no multiple"):
        made(values, {"name": "dispersive", "group": 32}, resources={"accelerators_per_run": 4})
    auto = made(values, dispersive, {"name": "contrastive", "group": 2}, resources={"micro_batch": "auto"})
    assert micro_batches(auto) == [64, 32, 16, 8]
    needs = {size: run_memory_card(auto, stage=1, offload=False, micro_batch=size).accelerator for size in (8, 16)}
    assert largest_that_fits(auto, needs[16]) == 16
    with pytest.raises(UserError, match="micro_batch auto: 8 images at a time need"):
        largest_that_fits(auto, needs[8] - 1)


def test_the_backbone_starts_as_the_baselines_and_samples_like_it(values):
    """Bit for bit, from weights that include heads."""
    plain, config = made(values), made(values, *EVERY)
    reference, trained, bare = build_model(plain), build_model(config), inference_model(config)
    heads = {name for name, _ in trained.named_parameters() if name.startswith("auxiliary.")}
    assert heads and {name.split(".")[0] for name in heads} <= set(trained.training_only)
    assert type(bare) is DiT and bare.state_dict().keys() == reference.state_dict().keys()
    for name, value in reference.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]) and torch.equal(value, bare.state_dict()[name]), name
    torch.manual_seed(3)
    weights = {name: torch.randn(p.shape) * 0.1 for name, p in trained.named_parameters()}
    x, t, y = torch.randn(4, 1, 8, 8), torch.rand(4) * 1000, torch.arange(4)
    expected = frozen_model(plain, {name: value for name, value in weights.items() if name not in heads}, torch.device("cpu"))(x, t, y)
    trained.load_state_dict(weights, strict=False)
    assert torch.equal(frozen_model(config, weights, torch.device("cpu"))(x, t, y), expected)
    with torch.no_grad():
        unpacked = trained(x, t, y)
        assert torch.equal(trained(x, t, y, taps=("sra2",))[0], unpacked)
        torch.testing.assert_close(unpacked, expected, rtol=1e-5, atol=1e-5)   # a model for sampling has packed layers (linear.py)
    assert all(block.tapped is None for block in trained.blocks)


def test_muon_leaves_heads_to_adamw(values):
    names = [name for name, _ in build_model(made(values, *EVERY)).named_parameters() if name.startswith("auxiliary.")]
    assert names and not any(kind_of(name) for name in names)


def test_heads_transfer_under_mup(values):
    """By their shapes: SRA's matrices are hidden ones, the last of SRA 2 is an output matrix."""
    losses = ["sra", {"name": "sra2", "hidden": 64}]
    wide = made(values, *losses, model={"name": "DiT-4x256/4", "parametrization": "mup", "base_width": 64})
    model = build_model(wide)
    assert model.scales["auxiliary.sra.0.weight"].lr == 0.25 and model.scales["auxiliary.sra2.0.weight"].lr == 0.25     # 256 x 512; 256 to 64: an output
    assert "auxiliary.sra2.8.weight" not in model.scales                       # 64 to 16: neither side follows the width
    base = build_model(made(values, *losses, model={"name": "DiT-4x64/4", "parametrization": "mup", "base_width": 64}))
    plain = build_model(made(values, *losses, model={"name": "DiT-4x64/4"}))
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), plain.parameters(), strict=True)) and not base.scales


def test_each_has_a_color_of_its_own_and_a_whole_row():
    kinds = [*VARIANTS.values(), *AUXILIARY.values()]
    for side in ("color", "dark_color"):
        assert len({getattr(kind, side) for kind in kinds}) == len(kinds)
    assert {tuple(kind.row) for kind in AUXILIARY.values()} == {("method", "added to the loss", "read from", "published", "caveat")}


def test_the_table_in_the_docs_is_the_registrys(repository):
    lines = (repository / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| method |"))
    drawn = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    header, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in drawn]
    table = {row[0].strip("`"): dict(zip(header, row)) for row in rows}
    for name, kind in AUXILIARY.items():
        assert {column: table[name][column] for column in kind.row if column != "method"} | {"method": name} == kind.row
    shown = re.findall(r"^## (\w+)$", "\n".join(lines), re.MULTILINE)
    assert set(AUXILIARY) <= set(shown)


@pytest.mark.parametrize("name", AUXILIARY)
def test_the_options_in_the_docs_are_the_sections(repository, name):
    """Of the table below the loss's heading: the names in its first column are all its options."""
    text = (repository / "docs" / "methods.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {name}$(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    told = {option for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for option in re.findall(r"`(\w+)`", row)}
    assert told == set(AUXILIARY[name].model_fields) - {"name"}
