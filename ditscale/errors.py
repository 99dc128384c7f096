"""Errors that a user can fix: one clear line, no stack trace."""

import os
import re

LOST = re.compile(r"\bgloo/|ncclRemoteError")                                  # in a process group's message if a rank is lost
NETWORK = {"DistNetworkError", "DistStoreError"}                               # torch's errors, by name, as a command may not have loaded torch


class UserError(ValueError):
    """A mistake in a file, a key, a value or a path. The message names it and says what would work."""


def did_you_mean(word: str, options) -> str:
    """``"; did you mean 'nano'?"`` for the nearest option, or "" if none is near."""
    import difflib

    near = difflib.get_close_matches(str(word), [str(o) for o in options], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def count(n: int, noun: str, nouns: str = "") -> str:
    """``"1 run"``, ``"2 runs"``, ``"1,000 classes"``; ``nouns`` is the plural where it is not ``noun`` with an s."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"


def first_line(error: BaseException) -> str:
    """An exception's first line, at most 200 characters; its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class TrainingFailed(RuntimeError):
    """A run that cannot continue; the message says at how many images and why."""


def lost_rank(error: BaseException) -> str:
    """One line if an error was caused by the end of another rank or by the network to it; "" for any other error."""
    kinds, size = {kind.__name__ for kind in type(error).__mro__}, os.environ.get("WORLD_SIZE", "1")
    if size == "1" or not (kinds & NETWORK or "RuntimeError" in kinds and LOST.search(str(error))):
        return ""
    import socket

    detail = re.sub(r"^\[[^]]*\] ", "", first_line(error))                     # without gloo's source file and guesses
    return (f"rank {os.environ.get('RANK', '?')} of {size} (on {socket.gethostname()}) ends: another rank has ended or cannot be "
            f"reached ({detail.split('. This is ')[0].rstrip('.')}); if it failed, its error is in the log")
