"""constraints.txt: the versions of all that ditscale[test] and FFCV need. ``make constraints`` writes it, .ci/setup.sh compares.

    constraints.py                   prints the versions in this Python, as pip's constraints
    constraints.py compare FILE      prints what is installed in other versions than FILE has, in one line

What depends on the hardware is left to torch, which pins it: CUDA's libraries and Triton, and the part of a version behind "+".
"""

import importlib.metadata
import re
import sys
from pathlib import Path

ROOTS = ("ditscale[test]", "ffcv", "setuptools", "wheel")
OF_HARDWARE = ("nvidia-", "cuda-", "triton")
OLDEST = (3, 10)
HEADER = """\
# Made by `make constraints`: what CI ran, on Python {}.{}. `make setup` uses it; by hand: pip install -c constraints.txt .
# Where a package's version does not run on every Python from 3.10, the others take the newest that does."""


def pins(roots: tuple[str, ...]) -> list[str]:
    """A line for each package that the roots need; optional ones only where an extra asks for them."""
    from packaging.requirements import Requirement

    lines, seen, waiting = set(), set(), [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        if name.startswith(OF_HARDWARE) or (name, *wanted.extras) in seen:
            continue
        seen.add((name, *wanted.extras))
        distribution = importlib.metadata.distribution(name)
        lines.add(f"{name}=={_version(name)}{_marker(distribution.metadata.get('Requires-Python', ''))}")
        for text in distribution.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(needed)
    return sorted(line for line in lines if not line.startswith("ditscale=="))


def _version(name: str) -> str:
    return importlib.metadata.version(name).split("+")[0]


def _marker(pythons: str) -> str:
    """On which Pythons a pin holds, where that is not all from the oldest on."""
    bounds = re.findall(r"(>=|<)\s*([\d.]+)", pythons)
    told = [f'python_full_version {sign} "{bound}"' for sign, bound in bounds
            if sign == "<" or tuple(map(int, bound.split(".")))[:2] > OLDEST]
    return f" ; {' and '.join(told)}" if told else ""


def differences(file: Path) -> list[str]:
    """``numpy 2.2.6 (2.4.6)`` for each package that is installed in another version than the file has."""
    found = []
    for name, pinned in re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(encoding="utf-8"), re.M):
        try:
            installed = _version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed != pinned:
            found.append(f"{name} {installed} ({pinned})")
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        print(", ".join(differences(Path(sys.argv[2]))))
    else:
        print("\n".join([HEADER.format(*sys.version_info), *pins(ROOTS)]))
