"""``ditscale config``: the config of each run, and a source of each value that is true: what is changed there changes the value."""

import copy
import re
from typing import get_args

import pytest
import yaml

from ditscale.cli import main as cli
from ditscale.config import RunConfig, resolve
from ditscale.dotted import dotted_keys
from ditscale.errors import UserError
from ditscale.section import UNIONS
from ditscale.studies.spec.provenance import Source
from ditscale.studies.spec.resolved import config_lines
from ditscale.studies.spec.spec import expand, load_spec, sources_of
from ditscale.yamlfile import line_numbers, parse_yaml, read_yaml

BASE = """\
config:
  model: {name: DiT-atto/4, class_dropout_prob: 0.2}
  data: {name: digits, path: data/digits/train.beton, resolution: 8, channels: 1, classes: 10}
  formulation: {name: flow}
  objective:
    name: baseline
  train: &train
    global_batch: 64
    lr: 1e-3
    betas: [0.9, 0.95]
    checkpoints: 2
  evaluation: {extractor_path: a.safetensors, reference_path: b.beton, samples: 64, sampling_steps: 3}
"""
STUDIES = {
    "grid": f"""\
version: 1
name: study
metric: {{name: fd_digits_cnn}}
parameters:
  model.name: {{values: [DiT-atto/4, DiT-femto/4]}}
  evaluation.sampling_steps:
    value: 4
bundles:
  variant:
    plain: {{objective.name: baseline}}
    mdt: {{objective: {{name: mdt, mask_ratio: 0.25}}, train.lr: 3e-4}}
budgets: {{flops: [2e10, 5e10]}}
exclude:
  - {{variant: mdt, model.name: DiT-femto/4}}
include:
  - {{model.name: DiT-pico/4, train.images: 1280, objective: &masked {{name: masked, mask_ratio: 0.75}}}}
  - model.name: DiT-pico/2
    variant: mdt
    train.images: 640
    train.lr: 2e-3
  - {{model.name: DiT-pico/2, train.images: 640, objective: *masked}}
{BASE}""",
    "isoflop": f"""\
version: 1
name: study
metric: {{name: fd_digits_cnn}}
isoflop: {{budgets: [1e12, 1e13], sizes: 3}}
{BASE}""",
    "hours": f"""\
version: 1
name: study
metric: {{name: fd_digits_cnn}}
budgets: {{accelerator_hours: [1e-4, 2e-4], accelerator: H100, utilization: 0.35}}
{BASE}""",
}
OVERRIDES = {"grid": [[], ["train.lr=5e-4"], ["train.betas=[0.8, 0.9]", "resources.loader=mmap"], ["variant=mdt", "seed=3"],
                      ["objective.name=mdt"], ["objective.name=discriminative", "model.class_dropout_prob=0.3"], ["train.images=640"],
                      ["evaluation={extractor_path: c, reference_path: d, samples: 32, sampling_steps: 2}"]],
             "isoflop": [[], ["train.lr=5e-4"]], "hours": [[], ["train.checkpoints=5"]]}
CASES = [(study, overrides) for study, choices in OVERRIDES.items() for overrides in choices]


@pytest.fixture
def study(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        return str(path)
    return write


def planned(path: str, overrides):
    spec = load_spec(path, tuple(overrides))
    return [(run, sources_of(spec, run, path)) for run in expand(spec, path)]


def flat(run) -> dict:
    return dotted_keys(run.config.model_dump(mode="json"))


@pytest.mark.parametrize("name, overrides", CASES)
def test_what_has_a_source_is_what_was_given(study, name, overrides):
    """pydantic knows which values were given and which are defaults."""
    for run, sources in planned(study(STUDIES[name]), overrides):
        assert sources.keys() == flat(run).keys()
        given = dotted_keys(run.config.model_dump(mode="json", exclude_unset=True))
        assert {key for key, source in sources.items() if source} == set(given)


def others(key: str, value):
    """Values that may stand in a value's place."""
    if key in ("model.name", "formulation.name", "objective.name"):
        yield from {"model.name": ["DiT-atto/2", "DiT-nano/4"]}.get(key) or UNIONS[key.partition(".")[0]]
    elif isinstance(value, str):
        section, _, field = key.partition(".")
        found = RunConfig.model_fields[section].annotation.model_fields.get(field) if section in ("model", "train", "resources") else None
        yield from get_args(found.annotation) if found and get_args(found.annotation) else [value + "x"]
    elif isinstance(value, list):
        yield [one * 0.99 for one in value]
    elif isinstance(value, (int, float)):
        yield from (value * 2, value * 4, value / 2, value + 1)


def changed(document, place, value):
    document = copy.deepcopy(document)
    inner = document
    for part in place[:-1]:
        inner = inner[part]
    before = inner.get(place[-1]) if isinstance(inner, dict) else inner[place[-1]]
    inner[place[-1]] = value
    for rule in document.get("exclude", []):                                     # it names values of parameters
        rule.update({key: value for key, named in rule.items() if named == before and place[:2] == ("parameters", key)})
    return document


@pytest.mark.parametrize("name, overrides", CASES)
def test_a_value_changed_at_its_source_changes(study, name, overrides):
    path = study(STUDIES[name])
    document, runs, wrong = read_yaml(path), planned(path, overrides), []
    checked = {}
    for number, (run, sources) in enumerate(runs):
        for key, source in sources.items():
            if source is not None:
                checked.setdefault((key, source), []).append((number, flat(run)[key]))

    def changes(key, source, numbers) -> bool:
        """Whether some other value there gives a study whose runs at these positions have another value at the key."""
        said = source.derived_from or key
        if source.place == ("isoflop",):
            said, place = "isoflop.centre", ("isoflop", "centre")
            choices = [{"coefficient": 1e-4}, {"coefficient": 0.1}]
        elif source.override:
            override_key, _, text = source.override.partition("=")
            current = parse_yaml(text, "override")
            inside = key.removeprefix(f"{override_key}.") if isinstance(current, dict) else ""
            choices = [f"{override_key}={yaml.safe_dump({**current, inside: other} if inside else other, default_flow_style=True, width=1e9)}"
                       .removesuffix("\n").removesuffix("\n...") for other in others(said, current[inside] if inside else current)]
        else:
            place, current = source.place, document
            for part in place:
                current = current[part]
            choices = others(said, current)
        for other in choices:
            try:
                if source.override:
                    after = planned(path, [other if text == source.override else text for text in overrides])
                else:
                    after = planned(study(yaml.safe_dump(changed(document, place, other), sort_keys=False)), overrides)
            except UserError:
                continue
            finally:
                study(STUDIES[name])
            if len(after) == len(runs):
                if all(flat(after[number][0])[key] != value for number, value in numbers):
                    return True
            elif not any(sources.get(key) == source and flat(run)[key] == numbers[0][1] for run, sources in after):
                return True                                                      # key=value now chooses other runs
        return False

    for (key, source), numbers in checked.items():
        if not changes(key, source, numbers):
            wrong.append((key, source, numbers))
    assert not wrong and len(checked) > 15


def test_lines_are_those_of_the_file(study):
    path = study(STUDIES["grid"])
    lines, text = line_numbers(path), STUDIES["grid"].splitlines()
    runs = planned(path, [])
    seen = set()
    for run, sources in runs:
        for key, source in sources.items():
            if source and not source.derived_from and not isinstance(flat(run)[key], list):
                words = re.findall(r"[^\s{}\[\],:&*]+", text[lines[source.place] - 1])
                assert flat(run)[key] in [parse_yaml(word, "a word of the line") for word in words], (key, source, words)
                seen.add(source.place[0])
    assert seen == {"config", "parameters", "bundles", "include"}
    [aliased] = [sources for run, sources in runs if run.config.objective.name == "masked" and run.config.model.name == "DiT-pico/2"]
    assert aliased["objective.mask_ratio"].place == ("include", 2, "objective", "mask_ratio")
    assert "&masked" in text[lines["include", 2, "objective", "mask_ratio"] - 1]   # an alias's value is where its anchor is


def test_sources_by_their_kind(study):
    path = study(STUDIES["grid"])
    runs = planned(path, [])
    plain, mdt, own = runs[0][1], next(sources for run, sources in runs if run.config.objective.name == "mdt"), runs[-2][1]
    assert plain["model.name"] == Source(("parameters", "model.name", "values", 0))
    assert plain["evaluation.sampling_steps"] == Source(("parameters", "evaluation.sampling_steps", "value"))
    assert plain["train.lr"] == Source(("config", "train", "lr")) and plain["train.warmup_images"] is None
    assert plain["train.images"] == Source(("budgets", "flops", 0), derived_from="train.flops")
    assert plain["train.checkpoint_every_images"] == Source(("config", "train", "checkpoints"), derived_from="train.checkpoints")
    assert mdt["objective.mask_ratio"] == Source(("bundles", "variant", "mdt", "objective", "mask_ratio"))
    assert own["train.lr"] == Source(("include", 1, "train.lr"))                 # above its bundle's
    assert own["objective.name"] == Source(("bundles", "variant", "mdt", "objective", "name"))
    [(_, set_by_hand), *_] = planned(path, ["train.lr=5e-4"])
    assert set_by_hand["train.lr"] == Source(override="train.lr=5e-4")
    [(_, kept), *_] = planned(path, ["train.lr=3e-4"])                           # keeps the runs that have it, sets nothing
    assert kept["train.lr"] == Source(("bundles", "variant", "mdt", "train.lr"))


@pytest.mark.parametrize("name", STUDIES)
def test_the_output_read_back_is_the_config(study, name):
    path = study(STUDIES[name])
    spec = load_spec(path)
    runs = expand(spec, path)
    documents = "\n".join(config_lines(spec, runs, path)).split("---\n")[1:]
    assert len(documents) == len(runs) > 1
    for document, run in zip(documents, runs):
        assert document.startswith(f"# {run.run_id}\n") and resolve(parse_yaml(document, "shown"), "shown") == run.config
        assert all("  # " in line or line.endswith(":") for line in document.splitlines()[1:])


def test_the_command(study, capsys):
    path = study(STUDIES["grid"])
    run_id = expand(load_spec(path), path)[1].run_id

    def said(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli(["config", path, *arguments])
        return ended.value.code, capsys.readouterr()
    code, shown = said("--run", run_id, "resources.loader=mmap")
    assert code == 0 and shown.out.startswith(f"# {run_id}\nseed: 0") and "---" not in shown.out
    lines = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in shown.out.splitlines()}
    assert (lines["loader"], lines["qk_norm"], lines["sampling_steps"]) == ("override 'resources.loader=mmap'", "default", f"{path}:7 parameters")
    assert lines["images"] == f"from train.flops, {path}:12 budgets"
    code, shown = said("--run", run_id[:-1])
    assert code == 2 and shown.out == "" and f"did you mean '{run_id}'?" in shown.err and shown.err.count("\n") == 1
