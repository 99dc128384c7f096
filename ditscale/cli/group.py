"""The command group ``ditscale`` itself, and the list of its commands: each is loaded when it is asked for."""

import gc
import os
import sys
import warnings
from functools import partial, wraps
from importlib import import_module
from textwrap import shorten

import click

import ditscale
from ditscale.errors import UserError, lost_rank

# Each command's file here, and the first sentence of its help, which the list of commands shows without loading it; a test compares them.
COMMANDS = {
    "collect": ("studies", "Write every score of a study as a table; STUDY is its folder under runs/."),
    "compare": ("scores", "List the settings in which two scores differ, and test whether the gap between them is more than noise."),
    "config": ("studies", "Show the resolved config of each run of the study SPEC as YAML, with the source of each value."),
    "convert": ("models", "Convert a DiT's weights: a .pt of train.py or a bare one, .safetensors, or a diffusers folder, to any of the three."),
    "coordinate-check": ("coordinates", "Check whether activations keep their size as the width grows, so that one learning rate suits all widths (muP)."),
    "data": ("data", "Build, encode, import and inspect training data."),
    "doctor": ("group", "Show what this machine can do, what is missing, and the command that fixes it."),
    "ema": ("models", "Rebuild an average of any length after training, from the tracks of RUN (train.ema_lengths), as in EDM2."),
    "evaluate": ("scores", "Score TARGET: a run's directory, images (a folder, .zip, .npz or .beton), or a file of others' weights (see import-run)."),
    "export": ("models", "Write a run's averaged weights for inference into TARGET; training-only parts are left out."),
    "figure": ("figure", "Draw one figure of a study, or of a CSV of scores; `ditscale figure NAME --help` lists its options."),
    "import-run": ("weights", "Make a run directory OUT of others' WEIGHTS, which sample, evaluate, export and compare take."),
    "init": ("studies", "Write the example study or site TEMPLATE into this folder for editing."),
    "launch": ("studies", "Run what is missing of the study SPEC: resume stopped runs, leave finished ones alone."),
    "mirror": ("studies", "Copy the metrics and scores of a study's runs to W&B, Trackio or MLflow; call it again to add new ones."),
    "models": ("models", "List every model: parameters, tokens, GMACs and GFLOPs of a forward, activations."),
    "plan": ("studies", "Show what the study SPEC will run and what it will cost."),
    "predict": ("predict", "Predict a larger run's loss and score from the smaller runs of a study, and add it to STUDY/predictions.jsonl."),
    "push": ("models", "Export a run with its model card and send it to REPO (OWNER/NAME) on the Hugging Face hub; without --send only list what "
                       "would be sent."),
    "report": ("figure", "Write report.html of a study, and every figure and table in it as files; STUDY is its folder under runs/."),
    "retry": ("studies", "Launch the failed runs of the study SPEC again."),
    "sample": ("sample", "Generate images from the weights of RUN: OUT.npz in ADM's format, or a folder OUT of PNGs."),
    "stats": ("stats", "Compute mean and covariance of the features of SOURCE's images, and write them to OUT.npz as a reference for scores."),
    "status": ("studies", "Show each run of the study SPEC: state, images seen, speed, time left, last score, host or job, why it failed."),
    "stop": ("studies", "Ask the running runs of the study SPEC to save a checkpoint and end; `launch` resumes them."),
    "train": ("studies", "Train one run of the study SPEC in the foreground, with its log on the terminal."),
    "validate": ("scores", "Compute the validation loss of RUN's checkpoints: the training loss on held-out images, with the same draws for every run."),
}


# pydantic looks for plugins in the metadata of every installed package, which takes longer than to read a study. Ours has none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

SELDOM = 200_000                                                               # objects made between collections; Python's own: 700 to 2,000


def collects_seldom(command):
    """A command that ends soon: garbage is collected seldom, as most of what a collection looks through was just loaded and stays."""
    @wraps(command)
    def run(*arguments, **options):
        usual = gc.get_threshold()
        gc.set_threshold(SELDOM, *usual[1:])
        try:
            return command(*arguments, **options)
        finally:
            gc.set_threshold(*usual)
    return run


class Commands(click.Group):
    """A user's mistake prints one line on stderr and exits with 2; the end of another rank prints one line and exits with 1; Ctrl-C exits with 130."""

    def invoke(self, context):
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show, set())
            try:
                return super().invoke(context)
            except UserError as error:
                click.echo(f"error: {_printable(error)}", err=True)
                sys.exit(2)
            except RuntimeError as error:
                if not (lost := lost_rank(error)):
                    raise
                click.echo(f"error: {lost}", err=True)
                sys.exit(1)
            except KeyboardInterrupt:
                sys.exit(130)


class LazyChoice(click.Choice):
    """The names of a registry, given as ``module:NAME`` and loaded only on use: registries need torch or pydantic, which are slow to import."""

    def __init__(self, registry: str):
        self.registry, self.case_sensitive = registry, True

    def __getattr__(self, name):
        if name != "choices":
            raise AttributeError(name)
        module, _, attribute = self.registry.partition(":")
        return tuple(getattr(import_module(module), attribute))


class Listed(Commands):
    """Commands of ``COMMANDS``, in addition to those that were added."""

    def list_commands(self, context) -> list[str]:
        return sorted({*COMMANDS, *self.commands})

    def get_command(self, context, name: str) -> click.Command | None:
        if name in COMMANDS and name not in self.commands:
            import_module(f"ditscale.cli.{COMMANDS[name][0]}")
        return super().get_command(context, name)

    def format_commands(self, context, formatter) -> None:
        names = self.list_commands(context)
        width = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._short_help(context, name, width)) for name in names])

    def _short_help(self, context, name: str, width: int) -> str:
        if name in COMMANDS:
            return shorten(COMMANDS[name][1], width, placeholder="...")
        return self.commands[name].get_short_help_str(width)


def _show(shown: set[str], message, category, filename, lineno, file=None, line=None) -> None:
    """Prints our warnings as text only, and others' with their location; each text of a command once."""
    ours = category is UserWarning and filename.startswith(os.path.dirname(ditscale.__file__) + os.sep)
    words = f"warning: {_printable(message)}" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    if words not in shown:
        shown.add(words)
        click.echo(words, err=True)


def _printable(message) -> str:
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(message))  # a name may contain any character


@click.group(cls=Listed, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(ditscale.__version__)
def main():
    """Scaling studies of diffusion transformers: plan, launch, score and compare."""


@main.command()
def doctor():
    """Show what this machine can do, what is missing, and the command that fixes it."""
    from ditscale.doctor import examine, show

    if not show(examine()):
        sys.exit(1)
