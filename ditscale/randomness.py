"""Counter-based random numbers: a value is a function of (seed, stream name, sample position) only.

They do not depend on rank, world size, batch split or call order. So any world size draws the same noise for the same image, a resumed run
gives the same result, and every run of a study sees the same images with the same noise.

The generator is Philox4x64-10 (Salmon et al., SC'11), bit-equal to ``numpy.random.Philox``. The same lines run on numpy arrays
(CPU: half the time of torch on a batch of digits) and on torch tensors of any device.
key = (seed, hash of the stream name), counter = (block, position, 0, 0).
"""

import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1 << 18                                                              # words of long samples at a time: 2 MiB, which stays in the cache
LOW = 0xFFFFFFFF
LONG = 64                                                                      # numpy's C generator is used from this number of blocks
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


@dataclass(frozen=True)
class Normal:
    """Standard normal values of this shape for each sample."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Uniform:
    """``count`` uniform values in [0, 1) for each sample."""

    count: int = 1


@functools.cache
def stream_key(name: str) -> int:
    """The 64-bit key of a named stream."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def draw(seed: int, positions: Tensor, streams: dict[str, Normal | Uniform]) -> dict[str, Tensor]:
    """Values of all streams for all sample positions, in one pass of the generator.

    Shapes: positions (B,) int64; returns fp32, (B, *shape) for ``Normal`` and (B, count) for ``Uniform``.
    """
    blocks = {name: -(-_values(spec) // _per_block(spec)) for name, spec in streams.items()}
    on_cpu = positions.device.type == "cpu"
    is_long = {name: on_cpu and count >= LONG for name, count in blocks.items()}
    short = _short(seed, positions, {name: (spec, blocks[name]) for name, spec in streams.items() if not is_long[name]})
    return {name: _long(seed, name, spec, positions, blocks[name]) if is_long[name] else short[name] for name, spec in streams.items()}


def _short(seed: int, positions: Tensor, streams: dict[str, tuple[Normal | Uniform, int]]) -> dict[str, Tensor]:
    """Streams with few blocks per sample (on an accelerator, any number), computed together."""
    if not streams:
        return {}
    blocks = [count for _, count in streams.values()]
    if positions.device.type == "cpu":
        block = np.concatenate([np.arange(count) for count in blocks]).view(np.uint64)[None]
        key = np.concatenate([np.full(count, stream_key(name), np.uint64) for name, count in zip(streams, blocks)])[None]
        words = torch.from_numpy(philox(seed, key, block, positions.numpy().view(np.uint64)[:, None]).view(np.int64))
    else:                                                                      # made there: a copy from the host would wait for the device
        words = philox(seed, *_counters({name: count for name, (_, count) in streams.items()}, positions.device), positions[:, None])
    return {name: _shaped(part.flatten(1), spec) for (name, (spec, _)), part in zip(streams.items(), words.split(blocks, dim=1))}


def _counters(blocks: dict[str, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Keys and block numbers (1, all blocks) of streams with so many blocks each."""
    keys = [torch.full((count,), _signed(stream_key(name)), dtype=torch.long, device=device) for name, count in blocks.items()]
    return torch.cat(keys)[None], torch.cat([torch.arange(count, dtype=torch.long, device=device) for count in blocks.values()])[None]


def _long(seed: int, name: str, spec: Normal | Uniform, positions: Tensor, blocks: int) -> Tensor:
    """A stream with many blocks per sample, some samples at a time."""
    parts = positions.split(max(1, AT_ONCE // (4 * blocks)))
    return torch.cat([_shaped(_long_words(seed, name, part, blocks), spec) for part in parts])


def _shaped(words: Tensor, spec: Normal | Uniform) -> Tensor:
    """The values of one stream from its words (B, W)."""
    values = (_normal if isinstance(spec, Normal) else _uniform)(words)[:, :_values(spec)]
    return values.reshape(-1, *spec.shape) if isinstance(spec, Normal) else values


def _long_words(seed: int, name: str, positions: Tensor, blocks: int) -> Tensor:
    """The same words from numpy's compiled generator, one sample at a time: 20 times as fast for long samples.

    numpy increments before it generates, so for block 0 of a sample its 256-bit counter is set to one less. Moving it takes a
    tenth of the time of a new generator.
    """
    words, counter = np.empty((len(positions), 4 * blocks), np.uint64), -1
    generator = np.random.Philox(key=seed % 2**64 + (stream_key(name) << 64), counter=counter % 2**256)
    for row, position in enumerate(positions.tolist()):
        before = (position << 64) - 1
        generator.advance((before - counter) % 2**256)
        words[row] = generator.random_raw(4 * blocks)
        counter = before + blocks
    return torch.from_numpy(words.view(np.int64))


def philox(seed: int, key, block, position):
    """Philox4x64-10 words ``(*broadcast, 4)`` for counters (block, position, 0, 0) and keys (seed, key).

    All three are numpy uint64 arrays, or torch int64 tensors with the same bits.
    """
    xp = torch if isinstance(block, Tensor) else np
    zero = (block ^ block) * (position ^ position)
    c0, c1, c2, c3 = block + zero, position + zero, zero, zero
    k1 = key
    for turn in range(10):
        k0 = _word((seed + turn * WEYL[0]) % 2**64, xp)
        high0, low0 = _multiply(c0, MULTIPLIERS[0], xp)
        high1, low1 = _multiply(c2, MULTIPLIERS[1], xp)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k1 = k1 + _word(WEYL[1], xp)
    return xp.stack([c0, c1, c2, c3], -1)


def _multiply(a, b: int, xp):
    """High and low 64 bits of the unsigned product ``a * b``. The masks make arithmetic right shifts logical."""
    a0, a1 = a & LOW, (a >> 32) & LOW
    b0, b1 = b & LOW, b >> 32
    p01, p10 = a0 * b1, a1 * b0
    middle = ((a0 * b0) >> 32 & LOW) + (p01 & LOW) + (p10 & LOW)
    return a1 * b1 + (p01 >> 32 & LOW) + (p10 >> 32 & LOW) + (middle >> 32), a * _word(b, xp)


def _word(value: int, xp):
    """A 64-bit pattern as a scalar: unsigned for numpy, the int64 with the same bits for torch."""
    return np.uint64(value) if xp is np else _signed(value)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def _values(spec: Normal | Uniform) -> int:
    return math.prod(spec.shape) if isinstance(spec, Normal) else spec.count


def _per_block(spec: Normal | Uniform) -> int:
    return 8 if isinstance(spec, Normal) else 4


def whole(uniform: Tensor, count: "int | Tensor") -> Tensor:
    """``floor(uniform * count)`` without rounding, int64, for fp32 in [0, 1) and counts up to 2^22; below ``count``, and no fp64 is needed.

    What lies below 2^-40 is cut off: a number that has such digits is so small that its product is below 1.
    """
    return (uniform * 2.0**40).long() * count >> 40


def _uniform(words: Tensor) -> Tensor:
    """The top 24 bits of each word: every value is exact in fp32."""
    return (words >> 40 & 0xFFFFFF).float() * 2.0**-24


def _normal(words: Tensor) -> Tensor:
    """Box-Muller: the two 32-bit halves of a word make two independent normals; the largest is 6.66."""
    radius = ((words >> 32 & LOW) + 1).float().mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = (words & LOW).float().mul_(2 * math.pi * 2.0**-32)
    return torch.stack([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=-1).flatten(1)
