"""The command line. Each command is a few lines that call one part; ``group.py`` lists them. Heavy imports wait until they are needed."""

from ditscale.cli.group import main

__all__ = ["main"]
