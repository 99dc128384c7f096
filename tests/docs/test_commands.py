"""Every command in the documentation parses: program, subcommand, options, values and files. The cheap ones run."""

import configparser
import re
import shlex

import click
import pytest
from click.testing import CliRunner
from pages import PAGES, ROOT, blocks, inline

from ditscale.cli import main as cli

OTHERS = {"apptainer", "cd", "docker", "export", "git", "mkdir", "pip", "tensorboard", "wandb", "trackio", "mlflow", "mkdocs", "ssh", "source"}
LAUNCHERS = {"torchrun", "deepspeed", "srun"}
FILES = re.compile(r"^(sweeps|analysis|benchmarks|ds_configs|docs|tests)/")


def lines() -> list[tuple[str, str]]:
    """Each command line of the bash blocks, with its place."""
    found = []
    for block in blocks("bash"):
        text = block.text.replace("\\\n", " ")
        found += [(str(block), line) for line in text.splitlines() if shlex.split(line, comments=True)]
    return found


def leaf(words: list[str]) -> tuple[click.Command, str, list[str]]:
    """The click command that the words after ``ditscale`` lead to, its name, and the words after it."""
    command, context, words = cli, click.Context(cli), list(words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        called = words.pop(0)
        found = command.get_command(context, called)
        assert found is not None, f"there is no command '{called}'"
        command = found
    return command, command.name or "ditscale", words


def check_options(words: list[str]) -> None:
    """The options exist; for a line that leaves something out (`...`), or is a synopsis."""
    command, _, rest = leaf([word for word in words if word != "..."])
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{command.name} has no option {word}"


def check_ditscale(words: list[str]) -> None:
    if "..." in words or not words:
        return check_options(words)
    command, called, rest = leaf(words)
    if not {"--help", "--version"} & set(rest):
        command.make_context(called, rest)                                     # parses; runs nothing
    for word in rest:
        if FILES.match(word):
            assert (ROOT / word).exists(), f"there is no file {word}"


def check(line: str) -> None:
    words = shlex.split(line, comments=True)
    while re.match(r"^[A-Z_]+=", words[0]):
        words.pop(0)
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program == "ditscale":
        check_ditscale(rest)
    elif program in LAUNCHERS:
        if "ditscale" in rest:
            check_ditscale(rest[rest.index("ditscale") + 1:])
        else:
            module = rest[rest.index("--module") + 1]
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    elif program == "make":
        for target in rest:
            assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"Makefile has no target {target}"
    elif program in ("python", "bash"):
        if rest[0] != "-m":
            assert (ROOT / rest[0]).exists(), f"there is no file {rest[0]}"
    else:
        assert program in OTHERS, f"unknown program {program}"


def extras(text: str) -> set[str]:
    return {extra.strip() for group in re.findall(r"ditscale\[([\w, -]+)\]", text) for extra in group.split(",")} - {"NAME"}


@pytest.mark.parametrize("place, line", lines())
def test_a_command_parses(place, line):
    try:
        check(line)
    except (AssertionError, click.ClickException) as error:
        pytest.fail(f"{place}: {line.strip()}: {error.format_message() if isinstance(error, click.ClickException) else error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_in_a_sentence_has_its_options(page):
    for text in inline(page):
        for part in text.split(", `"):
            if re.match(r"^(ditscale|python analysis/|make) ?", part) and part.split()[0] in ("ditscale", "make"):
                words = part.replace("[", " ").replace("]", " ").replace("|", " ").split()[1:]
                names = [word for word in words if not word.isupper()]
                if names and part.startswith("ditscale") and names[0].isalpha():
                    check_options(names)
                elif names and part.startswith("make"):
                    check(f"make {names[0]}")


def test_extras_exist():
    known = configparser.ConfigParser()
    known.read(ROOT / "setup.cfg")
    for page in PAGES:
        assert extras(page.read_text()) <= set(known["options.extras_require"]), page


def is_cheap(line: str) -> bool:
    words = shlex.split(line, comments=True)
    if words[0] != "ditscale" or "--probe" in words or words[1] == "plan" and any(word.startswith("runs/") for word in words):
        return False                                                           # a plan with --power reads a finished study
    return words[1] in ("plan", "config", "models") and "SPEC" not in words or words[1] == "figure" and any(FILES.match(word) for word in words)


@pytest.mark.parametrize("place, line", sorted({line.partition(" #")[0].strip(): (place, line) for place, line in lines() if is_cheap(line)}.values()))
def test_a_cheap_command_runs(place, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("sweeps", "analysis", "ds_configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    result = CliRunner().invoke(cli, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, f"{place}: {line}\n{result.output}{result.exception}"
    assert result.output.strip()
