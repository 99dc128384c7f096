"""Writes docs/parity.md: how far each quantity is from the peers' own code, by the comparisons that the tests assert.

    python tests/parity/table.py > docs/parity.md

Reads every npz in the folder that ``PARITY_DATA`` names (default: ``shared/parity`` beside the checkout).
"""

import importlib
import sys
from pathlib import Path

import torch
from reference import FOLDER, peer_files, relative

TITLES = {"dit": "DiT", "sit": "SiT", "repa": "REPA", "maskdit": "MaskDiT", "mdt": "MDT v1 and v2", "edm2_ema": "EDM2's averages"}

HEAD = """# Agreement with the peers' own code

Each peer's published code was run with random weights and random inputs; ditscale was given the same weights, translated by
`ditscale.models.peers`, and the same inputs. The difference is relative: norm of the difference over norm of the peer's value.
Written by `python tests/parity/table.py > docs/parity.md`; `tests/parity/` asserts every row. {where}

SiT's `model_output` rows exceed 3e-7 by rounding alone: in fp64 the translated weights give SiT's output to 1e-15, and in fp32 SiT's own
code and ditscale are each 2.7e-7 to 2.9e-7 from that fp64 output (`tests/parity/test_sit.py`).
"""


def main() -> None:
    torch.set_num_threads(1)
    sections = [section(peer, title) for peer, title in TITLES.items()]
    sections = [text for text in sections if text]
    if not sections:
        sys.exit(f"no reference arrays in {FOLDER}; PARITY_DATA names the folder")
    print(HEAD.format(where=f"torch {torch.__version__.split('+')[0]}, fp32, CPU."))
    print("\n".join(sections), end="")


def section(peer: str, title: str) -> str:
    """A peer's heading and table; nothing where it has no file or no module here."""
    if not (Path(__file__).with_name(f"{peer}.py")).exists():
        return ""
    compare, lines = importlib.import_module(peer).compare, []
    for path in peer_files(peer):
        for quantity, ours, theirs, tolerance in compare(path):
            lines.append(f"| `{path.stem}` | {quantity} | {relative(ours, theirs):.1e} | {tolerance:g} |")
    return "\n".join([f"## {title}", "", "| file | quantity | relative difference | tolerance |", "| --- | --- | ---: | ---: |",
                      *lines, ""]) if lines else ""


if __name__ == "__main__":
    main()
