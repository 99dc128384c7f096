"""Computes features of every image of a file once, for ``data/features.py``; optionally on fewer components (PCA)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ditscale
from ditscale.data.beton import BetonFile
from ditscale.data.encode import check_source
from ditscale.data.features import FeatureFacts, features_path
from ditscale.data.manifest import Manifest, read_manifest
from ditscale.data.order import indices_at
from ditscale.digest import file_sha256, new_digest
from ditscale.errors import UserError, count
from ditscale.formats import FEATURES, stamped
from ditscale.models.macs import FLOPS_PER_MAC
from ditscale.objectives.auxiliary.repa.encoder import Keys, make_encoder
from ditscale.rundir import write_json
from ditscale.writing import check_writable, written_whole

GIVEN = Keys("--encoder", "--encoder-path", "--option")                        # of the command
FIT_IMAGES = 2048                                                              # of the PCA
REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Asked:
    """What makes the features: a frozen encoder as in ``Repa``, on which images, and what is kept of them."""

    name: str
    encoder: str
    encoder_options: dict
    encoder_path: str | None = None
    pca: int | None = None
    flips: bool = False
    batch: int = 32


def make_features(beton, pixels, asked: Asked, device: torch.device | str, say: Callable[[str], None]) -> FeatureFacts:
    """Writes the features of ``beton``, computed from the images of ``pixels``: the same file, or the one whose latents ``beton`` holds.

    Raises:
        UserError: the files do not belong together, the features exist, the encoder does not fit, or they cannot be written.
    """
    (file, seen), wanted, target = check_source(pixels), read_manifest(beton), features_path(beton, asked.name, "--name")
    _check_same(file, seen, beton, wanted)
    if target.exists():
        raise UserError(f"{target}: exists already; give another --name, or delete it")
    check_writable(target)
    module = make_encoder(asked.encoder, asked.encoder_path, asked.encoder_options, GIVEN).to(device)
    first = _encoded(module, file, np.arange(1), False, device)
    tokens, whole = first.shape[1:]
    if asked.pca is not None and not 1 <= asked.pca < whole:
        raise UserError(f"--pca {asked.pca}: the encoder's features have {whole} numbers; give 1 to {whole - 1}, or leave it out")
    shape = (file.num_samples, 2 if asked.flips else 1, tokens, asked.pca or whole)
    macs = _macs(module, file, device)
    say(f"{target}: {' x '.join(map(str, shape))} in float16, {2 * np.prod(shape) / 2**30:.3g} GiB; {macs:,} MACs per image")
    axes = _principal(module, file, asked, device) if asked.pca else None
    with written_whole(target) as aside:
        array = np.lib.format.open_memmap(aside, "w+", np.float16, shape)
        for rows, flip, features in _all(module, file, asked, device, say):
            array[rows, flip] = (features if axes is None else (features - axes.mean) @ axes.components).half().cpu().numpy()
        array.flush()
        del array
        sha256 = file_sha256(aside)
    facts = FeatureFacts(
        name=asked.name, content_blake2b=wanted.content_blake2b, samples=shape[0], flips=shape[1], tokens=tokens, width=shape[3],
        encoder=asked.encoder, encoder_options=asked.encoder_options, encoder_blake2b=_weights_hash(module), encoder_macs=macs,
        images_blake2b=seen.content_blake2b, sha256=sha256, ditscale_version=ditscale.__version__,
        pca=None if axes is None else {"components": asked.pca, "explained": axes.explained, "images": min(FIT_IMAGES, shape[0])})
    write_json(target.with_suffix(".json"), stamped(FEATURES, asdict(facts)))
    return facts


def _check_same(file: BetonFile, pixels: Manifest, beton, wanted: Manifest) -> None:
    """Whether ``beton`` is this file of pixels, or holds its latents, image by image."""
    if wanted.content_blake2b == pixels.content_blake2b or wanted.pixels and wanted.pixels["content_blake2b"] == pixels.content_blake2b:
        return
    raise UserError(f"{beton}: neither {file.path} itself nor latents that `ditscale data encode` made of it; give the pixels that it was made of with --of")


def _encoded(module: nn.Module, file: BetonFile, rows: np.ndarray, flipped: bool, device: torch.device | str) -> Tensor:
    """Features (b, T, d) in fp32 of stored pixels."""
    images = torch.from_numpy(file.read("image", rows)).to(device).float() / 127.5 - 1
    weights = next(module.parameters(), images)
    with torch.no_grad():
        features = module((images.flip(-1) if flipped else images).to(weights.dtype))
    if not isinstance(features, Tensor) or features.ndim != 3 or len(features) != len(rows):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"the encoder gives {got} for {count(len(rows), 'image')}; it must give ({len(rows)}, tokens, numbers)")
    return features.float()


def _macs(module: nn.Module, file: BetonFile, device: torch.device | str) -> int:
    """MACs of one image, by PyTorch's counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):   # whose products the counter knows
        _encoded(module, file, np.arange(1), False, device)
    return counter.get_total_flops() // FLOPS_PER_MAC


@dataclass(frozen=True)
class Axes:
    """The mean (d,) and the principal components (d, k) of features, and the share of their variance that these explain."""

    mean: Tensor
    components: Tensor
    explained: float


def _principal(module: nn.Module, file: BetonFile, asked: Asked, device: torch.device | str) -> Axes:
    """Of the tokens of ``FIT_IMAGES`` images in a fixed random order, in fp64; the largest number of each component is positive."""
    rows = indices_at(np.arange(min(FIT_IMAGES, file.num_samples)), file.num_samples, 0)
    total, products, tokens = torch.zeros(()), torch.zeros(()), 0
    for first in range(0, len(rows), asked.batch):
        features = _encoded(module, file, rows[first:first + asked.batch], False, device).cpu().double().flatten(0, 1)
        total, products, tokens = total + features.sum(0), products + features.T @ features, tokens + len(features)
    mean = total / tokens
    variances, vectors = torch.linalg.eigh(products / tokens - torch.outer(mean, mean))
    vectors = vectors.flip(1)[:, :asked.pca]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    explained = float(variances.flip(0)[:asked.pca].sum() / variances.sum())
    return Axes(mean.float().to(device), (vectors * largest.sign()).float().to(device), explained)


def _all(module: nn.Module, file: BetonFile, asked: Asked, device: torch.device | str, say) -> Iterator[tuple[np.ndarray, int, Tensor]]:
    """(rows, flip, features) of every image, and of every flip."""
    started = said = time.perf_counter()
    for first in range(0, file.num_samples, asked.batch):
        rows = np.arange(first, min(first + asked.batch, file.num_samples))
        for flip in range(2 if asked.flips else 1):
            yield rows, flip, _encoded(module, file, rows, bool(flip), device)
        if time.perf_counter() - said > REPORT_SECONDS:
            said = time.perf_counter()
            say(f"{rows[-1] + 1} of {count(file.num_samples, 'image')}, {(rows[-1] + 1) / (said - started):.1f} images/s")


def _weights_hash(module: nn.Module) -> str:
    """Over the names and values of the module's state."""
    digest = new_digest()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def said(facts: FeatureFacts, path: Path) -> str:
    """One line about what was made."""
    reduced = f", {facts.pca['components']} components with {facts.pca['explained']:.1%} of the variance" if facts.pca else ""
    both = " and of their flips" if facts.flips == 2 else ""
    return f"{path}: features of {count(facts.samples, 'image')}{both}, {facts.tokens} x {facts.width} each{reduced}"
