"""The command group ``ditscale`` itself."""

import os
import sys
import warnings

import click

import ditscale
from ditscale.errors import UserError, lost_rank


class Commands(click.Group):
    """A user's mistake prints one line on stderr and exits with 2; the end of another rank prints one line and exits with 1; Ctrl-C exits with 130."""

    def invoke(self, context):
        with warnings.catch_warnings():
            warnings.showwarning = _show
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


def _show(message, category, filename, lineno, file=None, line=None) -> None:
    """Prints our warnings as text only, and others' with their location."""
    ours = category is UserWarning and filename.startswith(os.path.dirname(ditscale.__file__) + os.sep)
    words = f"warning: {_printable(message)}" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    click.echo(words, err=True)


def _printable(message) -> str:
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(message))  # a name may contain any character


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(ditscale.__version__)
def main():
    """Scaling studies of diffusion transformers: plan, launch, score and compare."""


@main.command()
def doctor():
    """Show what this machine can do, what is missing, and the command that fixes it."""
    from ditscale.doctor import examine, show

    if not show(examine()):
        sys.exit(1)
