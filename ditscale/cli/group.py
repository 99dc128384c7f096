"""The command group ``ditscale`` itself."""

import sys

import click

from ditscale import __version__
from ditscale.errors import UserError


class Commands(click.Group):
    """A user's mistake is one line on stderr and exit code 2; Ctrl-C is exit code 130."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except UserError as error:
            said = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(error))  # a name may hold anything
            click.echo(f"error: {said}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main():
    """Scaling studies of diffusion transformers: plan, launch, score and compare."""


@main.command()
def doctor():
    """Say what this machine can do, what is missing, and the command that would mend it."""
    from ditscale.doctor import examine, show

    if not show(examine()):
        sys.exit(1)
