"""The command line. Each command is a few lines that call one part; ``group.py`` lists them. Heavy imports are deferred until needed."""

from ditscale.cli.group import main

__all__ = ["main"]
