"""Generated cases for ``benchmarks/hostile.py``, a module a family of inputs; the same cases in every run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One command on one input.

    Attributes:
        name: ``family/what``.
        make: writes the input into an empty folder and returns the command's words.
        right: ``refused`` (exit code not 0), ``fine`` (exit code 0), or ``either``: all but a fault is right.
        check: (folder, exit code, output) -> what is silently wrong, or "".
        may_leave: names of files that a refused command may leave behind.
    """

    name: str
    make: Callable[[Path], list[str]]
    right: str = "either"
    check: Callable[[Path, int, str], str] | None = None
    may_leave: Callable[[str], bool] = lambda name: False


def build_given(digits: Path, trained: bool) -> None:
    """The digits; their feature network too where runs are scored."""
    from ditscale.data.digits import build_digits
    from ditscale.evaluation.extractors.digits_cnn import train_digits_cnn

    build_digits(digits)
    if trained:
        train_digits_cnn(digits / "train.beton", digits / "heldout.beton", digits / "digits_cnn.safetensors")


def families(given: Path, trained: bool = True) -> Iterator[Case]:
    """All cases; ``given`` is a folder for what they share. Without ``trained`` no run is trained and none of its cases is made."""
    from hostile_cases import arrays, betons, runs, specs, tables

    given.mkdir(parents=True)
    build_given(given / "digits", trained)
    yield from specs.cases(given)
    yield from arrays.cases(given)
    yield from betons.cases(given)
    yield from tables.cases(given)
    if trained:
        yield from runs.cases(given)
