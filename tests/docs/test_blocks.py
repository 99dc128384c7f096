"""YAML blocks are valid studies, sites or parts of one; Python blocks compile and import what exists; named config keys exist."""

import ast
import copy
import importlib
import re

import pytest
from pages import PAGES, ROOT, blocks, inline

from ditscale.config import RunConfig, resolve
from ditscale.dotted import dotted_keys, set_key
from ditscale.section import UNIONS
from ditscale.studies.launch.start import load_site
from ditscale.studies.spec.budget_grid import IsoFlop
from ditscale.studies.spec.budgets import Budgets
from ditscale.studies.spec.file import Limits, Spec
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.yamlfile import parse_yaml

STUDY = """\
version: 1
name: study
metric: {name: fd_digits_cnn}
config:
  model: {name: DiT-nano/2, class_dropout_prob: 0.1}
  data: {name: digits, path: data/digits/train.beton, resolution: 8, channels: 1, classes: 10}
  formulation: {name: flow}
  objective: {name: baseline}
  train: {images: 102400, global_batch: 64, checkpoint_every_images: 51200}
  evaluation: {extractor_path: a.safetensors, reference_path: b.beton, samples: 64, sampling_steps: 3}
"""
LENGTH = ("images", "checkpoint_every_images")


def as_study(fragment: dict) -> dict:
    """A complete study with this part of one, or of its config, in it."""
    study = parse_yaml(STUDY, "STUDY")
    config = {key: value for key, value in fragment.items() if key in RunConfig.model_fields}
    for key, value in {**config, **fragment.pop("config", {})}.items():
        study["config"][key] = {**study["config"].get(key, {}), **value} if isinstance(value, dict) and key not in UNIONS else value
        fragment.pop(key, None)
    if "isoflop" in fragment or "budgets" in fragment:
        study["config"]["train"] = {key: value for key, value in study["config"]["train"].items() if key not in LENGTH} | {"checkpoints": 2}
    if "isoflop" in fragment:
        study["config"]["data"] |= {"resolution": 32, "channels": 4}
    return study | fragment


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_valid(block, tmp_path):
    import yaml

    values = parse_yaml(block.text, str(block))
    path = tmp_path / "block.yaml"
    if "launcher" in values:
        (tmp_path / "hosts").write_text("one slots=8\ntwo slots=8\n")
        path.write_text(block.text.replace("hostfile: hosts", f"hostfile: {tmp_path / 'hosts'}"))
        load_site(path)
        return
    unknown = values.keys() - Spec.model_fields.keys() - RunConfig.model_fields.keys()
    assert not unknown, f"{block}: keys of neither a study, a config nor a site: {sorted(unknown)}"
    whole = "version" in values
    path.write_text(block.text if whole else yaml.safe_dump(as_study(copy.deepcopy(values))))
    spec = load_spec(path)
    assert expand(spec, str(block))

def names(block) -> dict[str, object]:
    """What a Python block imports, resolved."""
    found = {}
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            found |= {alias.asname or alias.name: getattr(module, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                      for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: importlib.import_module(alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles_and_its_imports_exist(block):
    compile(block.text, str(block), "exec")
    names(block)


def keys_of_options() -> set[str]:
    """Every dotted key that a config, budgets, an isoFLOP design or limits may have."""
    keys = set()
    for part, field in RunConfig.model_fields.items():
        kinds = list(UNIONS.get(part, {}).values()) or [one for one in (field.annotation, *getattr(field.annotation, "__args__", ()))
                                                        if hasattr(one, "model_fields")]
        keys |= {f"{part}.{key}" for kind in kinds for key in kind.model_fields}
    for part, section in (("budgets", Budgets), ("isoflop", IsoFlop), ("limits", Limits)):
        keys |= {f"{part}.{key}" for key in section.model_fields}
    return keys | {"train.flops", "train.checkpoints", "train.branches"}       # of a study: they decide train.images


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_config_keys_exist(page):
    known, parts = keys_of_options(), {*RunConfig.model_fields, "budgets", "isoflop", "limits"} - {"seed"}
    for text in inline(page):
        match = re.fullmatch(r"(\w+)\.(\w+)(=.*|: .*)?", text)
        if match and match[1] in parts and match[2] not in ("py", "md", "json", "beton", "csv", "yaml"):
            assert f"{match[1]}.{match[2]}" in known, f"{page.name}: `{text}`: no such key"


@pytest.mark.parametrize("variant", [name for name in UNIONS["objective"] if name != "baseline"])
def test_the_options_of_a_variant_exist(variant):
    """Of the table below the variant's heading in docs/variants.md: the names in its first column."""
    section = re.search(rf"^## {variant}$(.*?)^## ", (ROOT / "docs" / "variants.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    told = {option for row in rows for option in re.findall(r"`(\w+)`", row) if not option.startswith("_")}
    assert told and told <= set(UNIONS["objective"][variant].model_fields)


def test_the_base_study_is_valid():
    values = parse_yaml(STUDY, "STUDY")
    assert dotted_keys(values["config"])
    set_key(values["config"], "seed", 1)
    resolve(values["config"], "STUDY")
