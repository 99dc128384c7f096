"""Files around the package say the same: versions, pins, containers, templates."""

import configparser
import re
import shlex

import pytest
import yaml
from packaging.requirements import Requirement

import ditscale
from ditscale.doctor import FFCV_PACKAGES
from ditscale.studies.launch.start import load_site
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.studies.spec.templates import SHORT, summaries, templates, write_template
from ditscale.training.zero.strategyfile import read_strategy

APT, PIP = "apt-get install ", "/opt/venv/bin/pip install "


@pytest.fixture(scope="module")
def setup_cfg(repository):
    parser = configparser.ConfigParser()
    parser.read(repository / "setup.cfg")
    return parser


def requirements(text):
    return {need.name.lower(): need for need in map(Requirement, (line for line in text.splitlines() if line and line[0] != "#"))}


def commands(text):
    """The shell commands of a container's file, one a line."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [re.sub(r"^(RUN\s+)?(&&\s+)?", "", part).strip() for line in joined.splitlines() if line[:1] != "#" for part in line.split("&& ")]


def test_one_version_everywhere(repository):
    assert yaml.safe_load((repository / "CITATION.cff").read_text())["version"] == ditscale.__version__
    assert re.search(r"^## (\S+)", (repository / "CHANGELOG.md").read_text(), re.M)[1] in (ditscale.__version__, "Unreleased")


def test_every_requirement_is_pinned_within_its_range(repository, setup_cfg):
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (repository / "constraints.txt").read_text(), re.M))
    needs = requirements(setup_cfg["options"]["install_requires"]) | requirements(setup_cfg["options.extras_require"]["test"])
    assert len(needs) > 20
    for name, need in needs.items():
        assert need.specifier.contains(pins[name]), f"{need} but constraints.txt has {name}=={pins[name]}"
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]


def test_precommit_has_the_ruff_of_the_tests(repository, setup_cfg):
    hook, = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"]
    assert requirements(setup_cfg["options.extras_require"]["test"])["ruff"].specifier.contains(hook["rev"].removeprefix("v"))
    assert f"ruff=={hook['rev'].removeprefix('v')}" in (repository / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize("name", ["Dockerfile", "apptainer.def"])
def test_container_commands_are_possible(repository, setup_cfg, name):
    """They cannot be built here: what they copy is there, and what they install is what setup.cfg and doctor name."""
    text = (repository / name).read_text()
    assert text.startswith("# ") and re.search(r"^F(ROM|rom:) ?nvidia/cuda:[\d.]+-base-ubuntu24\.04$", text, re.M)
    apt, = (line.split() for line in commands(text) if line.startswith(APT))
    assert {*FFCV_PACKAGES.split(), "g++", "python3-dev", "python3-venv"} <= set(apt)
    copied = re.findall(r"^ +(\S+) /opt/ditscale/\1$", text, re.M) + [
        word for line in re.findall(r"^COPY (.*)", text, re.M) for word in line.split()[:-1]]
    assert all((repository / path).exists() for path in copied)
    assert {"ditscale", "ds_configs", "sweeps", "setup.cfg", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(copied)
    installs = [shlex.split(line.removeprefix(PIP)) for line in commands(text) if line.startswith(PIP)]
    assert len(installs) == 2 and all(words[1:3] == ["-c", "constraints.txt"] for words in installs)
    extra = re.fullmatch(r"\.\[(\w+)\]", installs[0][-1])[1]
    assert extra in setup_cfg["options.extras_require"] and {"setuptools", "wheel"} <= set(installs[0])
    assert installs[1][-2:] == ["--no-build-isolation", "ffcv"]


def test_every_example_is_a_template_that_parses(repository, tmp_path):
    files = templates()
    assert len(files) == len(summaries()) == len(list((repository / "sweeps").rglob("*.yaml")))
    assert list(files)[:3] == ["cifar10", "digits", "imagenet256"] and list(files)[-3:] == ["hosts", "kubernetes", "slurm"]
    for name, file in files.items():
        path, following = write_template(name, tmp_path)
        text = path.read_text()
        assert "sweeps/" not in text and len(text.splitlines()[0]) > 20
        if file.parent.name == "sites":
            assert load_site(path)
            assert all(f"--site {path.name}" in line for line in following) and following[-1].startswith("ditscale launch ")
            continue
        spec = load_spec(path)
        assert [run.run_id for run in expand(spec, path)] == [run.run_id for run in expand(load_spec(file), file)]
        if name in SHORT.values() or following:
            assert following[-1] == f"ditscale report runs/{spec.name}"
            assert any(line.startswith(f"ditscale launch {path.name}") for line in following)


def test_a_strategy_by_name_its_old_path_and_a_file(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_strategy("zero3").stage == read_strategy("ds_configs/zero3.json").stage == 3
    assert read_strategy(repository / "ds_configs" / "zero2.json").stage == 2
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs" / "zero3.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert read_strategy("ds_configs/zero3.json").stage == 1 and read_strategy("zero3").stage == 3
    for wrong in ("zero4", "zero3.json", "other/zero3.json"):
        with pytest.raises(ValueError, match=r"does not exist \(looked from .*one of zero0, zero1, zero2, zero2_offload, zero3, zero3_offload$"):
            read_strategy(wrong)


def test_init_refuses_in_one_line(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from ditscale.cli import main

    monkeypatch.chdir(tmp_path)
    assert "imagenet256-isoflop" in CliRunner().invoke(main, ["init"]).output
    assert CliRunner().invoke(main, ["init", "digits"]).exit_code == 0
    before = (tmp_path / "digits_demo.yaml").read_bytes()
    for words, said in ((["digits"], "digits_demo.yaml already exists"), (["digits_demo.yaml"], "digits_demo.yaml already exists"),
                        (["digit"], "no template 'digit'; did you mean 'digits'?"),
                        (["gpu"], "there are cifar10, digits")):
        done = CliRunner().invoke(main, ["init", *words])
        assert done.exit_code == 2 and said in done.output and done.output.count("\n") == 1
    assert (tmp_path / "digits_demo.yaml").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_no_placeholder_is_left(repository):
    """In what users read and copy: words that stood for a number that was not measured yet."""
    pages = [*repository.glob("*.md"), *(repository / "docs").rglob("*.md"), *(repository / "sweeps").rglob("*.yaml")]
    found = {path.name: re.findall(r"\b(MINUTES|RESULTS|TODO|XXX)\b", path.read_text()) for path in pages}
    assert not {name: words for name, words in found.items() if words}
