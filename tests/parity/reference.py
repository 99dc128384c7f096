"""Reference arrays from peers' own code: where they lie, how they are read, how far ours may be from them.

``PARITY_DATA`` names the folder, by default ``shared/parity`` beside the checkout. Each peer has a module here with
``compare(path)``, which yields a ``Row`` for each quantity of one npz; the tests assert the rows, ``table.py`` writes them down.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch

from ditscale.diffusion import samplers
from ditscale.diffusion.ddpm_options import DdpmConfig
from ditscale.diffusion.edm_options import EdmConfig
from ditscale.diffusion.flow_options import FlowConfig
from ditscale.diffusion.formulation import make_formulation
from ditscale.models.dit import DiT
from ditscale.models.peers import PEERS

FOLDER = Path(os.environ.get("PARITY_DATA", Path(__file__).resolve().parents[3] / "shared" / "parity"))
TIGHT = 1e-5                                                                   # outputs, losses, gradients, samplers
LOOSE = 1e-4                                                                   # samplers with learned variance: values of hundreds


class Row(NamedTuple):
    """One quantity of one file; ``ours`` and ``theirs`` are tensors or arrays of one shape."""

    quantity: str
    ours: object
    theirs: object
    tolerance: float


def peer_files(peer: str) -> list[Path]:
    """Every npz of a peer in the folder: ``dit_a.npz``, ``dit_b.npz``, ... for ``dit``; ``mdt`` has ``mdt_v1`` and ``mdt_v2``."""
    return sorted(path for path in FOLDER.glob(f"{peer}_*.npz"))


def each_file(peer: str):
    """Parametrizes a test by ``path`` over a peer's files; without any, the one test skips and says why."""
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no {peer}_*.npz in {FOLDER}; PARITY_DATA names the folder"))
    return pytest.mark.parametrize("path", peer_files(peer) or [missing], ids=lambda path: path.stem if path else "absent")


def load(path) -> dict:
    """A file's arrays by name as torch tensors; where there are some named ``w.<name>``, these by name under ``weights``."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    weights = {name.removeprefix("w."): value for name, value in arrays.items() if name.startswith("w.")}
    others = {name: value for name, value in arrays.items() if not name.startswith("w.")}
    return others | {"weights": weights} if weights else others


def relative(ours, theirs) -> float:
    """Norm of the difference over the norm of ``theirs``, in fp64; infinite where shapes differ or a value is no number."""
    ours, theirs = (torch.as_tensor(values).detach().double() for values in (ours, theirs))
    if ours.shape != theirs.shape or not torch.isfinite(ours).all():
        return float("inf")
    difference, size = (ours - theirs).norm().item(), theirs.norm().item()
    return difference / size if size else difference


class Peer(NamedTuple):
    """A peer's network under ditscale: its weights translated, and the formulation that the translation names."""

    model: DiT
    formulation: object


def peer_model(peer: str, file: dict, heads: int, sizes: dict | None = None, **formulation) -> Peer:
    """The network of a file's weights, with ``sizes`` that they do not tell and further options of the formulation."""
    translated = PEERS[peer](file["weights"], heads, **sizes or {})
    model = translated.kind(**translated.model).eval()
    model.load_state_dict(translated.weights)
    stated = {key.removeprefix("formulation."): value for key, value in translated.config.items() if key.startswith("formulation.")}
    config = {"ddpm": DdpmConfig, "edm": EdmConfig, "flow": FlowConfig}[stated["name"]]
    return Peer(model.requires_grad_(False), make_formulation(config(**stated | formulation)))


def image_means(values):
    """(B, ...) to the mean over each image, (B,)."""
    return values.flatten(1).mean(1)


@contextmanager
def given_noise(steps):
    """Inside, a sampler that draws noise in step i takes ``steps[i]`` (N, B, C, S, S) instead."""
    class Given:
        def __init__(self, *_):
            self.at = steps.__getitem__

    with mock.patch.object(samplers, "StepNoise", Given):
        yield


def check(rows) -> None:
    """Assert every row, and name all that are off. ``rows`` is what ``compare`` yields."""
    measured = [(quantity, relative(ours, theirs), tolerance) for quantity, ours, theirs, tolerance in rows]
    off = [f"{quantity}: {difference:.1e}, not within {tolerance:g}" for quantity, difference, tolerance in measured
           if not difference <= tolerance]
    assert measured and not off, "\n".join(off)


def as_given(number: torch.Tensor) -> float:
    """A number as it was before it was stored in fp32: 0.3, not 0.30000001, so that as many tokens are kept."""
    return float(str(number.numpy()))


def gradient_rows(model, loss, file: dict, ours_of):
    """A row for each gradient of ``loss`` that the file holds, ``grad.<their name>``; ``ours_of`` gives our parameter's name."""
    names = [name for name in file if name.startswith("grad.")]
    found = torch.autograd.grad(loss, [model.get_parameter(ours_of(name.removeprefix("grad."))) for name in names])
    return [Row(name, gradient, file[name], TIGHT) for name, gradient in zip(names, found)]
