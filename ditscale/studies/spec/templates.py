"""Example studies and sites that ``ditscale init`` copies: the files of ``sweeps/``, which the wheel holds as package data."""

from pathlib import Path

from ditscale.errors import UserError, did_you_mean

FOLDER = Path(__file__).parent / "templates"                                   # a link to sweeps/ of the checkout; the wheel holds copies
TEMPLATES = {"digits": "digits_demo.yaml", "cifar10": "cifar10_variants.yaml", "imagenet256": "imagenet256_models.yaml",
             "imagenet256-blocks": "imagenet256_blocks.yaml", "imagenet256-isoflop": "imagenet256_isoflop.yaml",
             "imagenet256-variants": "imagenet256_variants.yaml", "slurm": "sites/slurm_example.yaml",
             "kubernetes": "sites/kubernetes_example.yaml", "hosts": "sites/hosts_example.yaml"}
NEXT = "# Next:"                                                               # in a file's head, before the commands that use it


def summaries() -> list[str]:
    """A line for each template: its name, and the first sentence of its file."""
    width = max(map(len, TEMPLATES))
    return [f"{name:<{width}}  {_text(name).splitlines()[0].removeprefix('# ').split('. ')[0].rstrip('.:')}" for name in TEMPLATES]


def write_template(name: str, folder: Path) -> tuple[Path, list[str]]:
    """Write a template into ``folder``: its path, and the commands that come next, to be run from there.

    Raises:
        UserError: there is no such template, its file is there already, or it cannot be written.
    """
    if name not in TEMPLATES:
        raise UserError(f"no template '{name}'{did_you_mean(name, TEMPLATES) or '; there are ' + ', '.join(TEMPLATES)}")
    path, text = folder / Path(TEMPLATES[name]).name, _text(name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already; move it, or run ditscale init in another folder") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return path, _next(text)


def _text(name: str) -> str:
    """A template as it reads in the folder it is copied to."""
    text = (FOLDER / TEMPLATES[name]).read_text(encoding="utf-8")
    return text.replace("sweeps/sites/", "").replace("sweeps/", "")


def _next(text: str) -> list[str]:
    lines = iter(text.splitlines())
    if NEXT not in lines:                                                      # moves the iterator behind it
        return []
    commands = []
    for line in lines:
        if not line.startswith("#   "):
            break
        commands.append(line.removeprefix("#   "))
    return commands
