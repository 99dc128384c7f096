"""Example studies and sites that ``ditscale init`` copies: the files of ``sweeps/``, which the wheel contains as package data."""

from pathlib import Path

from ditscale.errors import UserError, did_you_mean

FOLDER = Path(__file__).parent / "templates"                                   # a link to sweeps/ in the checkout; the wheel contains copies
CHECKOUT = FOLDER.is_symlink()
SHORT = {"digits_demo": "digits", "cifar10_variants": "cifar10", "imagenet256_models": "imagenet256"}   # short names of the most common ones
NEXT = "# Next:"                                                               # in a file's header, before the commands that use it


def templates() -> dict[str, Path]:
    """Every file of ``sweeps/`` by its template name, the most common first, sites last."""
    files = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("sites/*.yaml")], key=lambda path: (path.parent != FOLDER, path.stem not in SHORT, path.stem))
    return {SHORT.get(path.stem, path.stem.removesuffix("_example").replace("_", "-")): path for path in files}


def summaries() -> list[str]:
    """A line for each template: its name, and the first sentence of its file."""
    files = templates()
    width = max(map(len, files))
    return [f"{name:<{width}}  {_text(path).splitlines()[0].removeprefix('# ').split('. ')[0].rstrip('.:')}" for name, path in files.items()]


def write_template(name: str, folder: Path) -> tuple[Path, list[str]]:
    """Write a template, by its name or its file's, into ``folder``: its path, and the commands that come next, to be run from there.

    Raises:
        UserError: the template is unknown, its file already exists, or it cannot be written.
    """
    files = templates()
    name = {path.name: short for short, path in files.items()}.get(name, name)
    if name not in files:
        raise UserError(f"no template '{name}'{did_you_mean(name, files) or '; there are ' + ', '.join(files)}")
    path, text = folder / files[name].name, _text(files[name])
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} already exists; move it, or run ditscale init in another folder") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return path, _next(text)


def _text(file: Path) -> str:
    """A template's text, adapted to the folder it is copied to."""
    return file.read_text(encoding="utf-8").replace("sweeps/sites/", "").replace("sweeps/", "")


def _next(text: str) -> list[str]:
    lines = iter(text.splitlines())
    if NEXT not in lines:                                                      # advances the iterator past it
        return []
    commands = []
    for line in lines:
        if not line.startswith("#   "):
            break
        commands.append(line.removeprefix("#   "))
    return commands
