"""Counter-based randomness: bit-equal to NumPy's Philox, and independent of how a batch is cut."""

import numpy as np
import pytest
import torch

from ditscale.randomness import Normal, Uniform, _counters, draw, philox, stream_key, whole

STREAMS = {"noise": Normal((3, 5)), "level": Uniform(), "mask": Uniform(7)}


@pytest.mark.parametrize("seed, position, block", [(0, 0, 1), (2**63 + 11, 2**40 + 3, 9), (12345, 7, 2**33)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_words_are_numpys(seed, position, block, library):
    key = stream_key("noise")
    wanted = np.random.Philox(key=np.array([seed, key], np.uint64), counter=np.array([block - 1, position, 0, 0], np.uint64)).random_raw(4)
    arrays = [np.array([value], np.uint64) for value in (key, block, position)]
    if library == "torch":
        arrays = [torch.from_numpy(array.view(np.int64)) for array in arrays]
    words = philox(seed, *arrays)[0]
    assert (np.asarray(words).view(np.uint64) == wanted).all()


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_long_samples_hold_the_same_words(seed, monkeypatch):
    """They come from numpy's own generator, block 0 and position 0 included."""
    streams, positions = {"noise": Normal((4, 16, 16)), "level": Uniform()}, torch.tensor([0, 1, 5, 2**40])
    fast = draw(seed, positions, streams)
    monkeypatch.setattr("ditscale.randomness.LONG", 10**9)
    for name, values in draw(seed, positions, streams).items():
        assert torch.equal(values, fast[name])


def test_any_split_and_order_draws_the_same():
    positions = torch.arange(100, 124)
    whole = draw(5, positions, STREAMS)
    shuffled = torch.randperm(24)
    parts = [draw(5, part, STREAMS) for part in positions[shuffled].split(7)]
    for name, values in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values[shuffled])


def test_a_stream_does_not_depend_on_its_neighbors():
    positions = torch.arange(4)
    alone = draw(5, positions, {"mask": Uniform(7)})["mask"]
    assert torch.equal(alone, draw(5, positions, STREAMS)["mask"])


def test_seeds_streams_and_positions_differ():
    positions = torch.arange(2)
    drawn = draw(0, positions, {"a": Normal((64,)), "b": Normal((64,))})
    other = draw(1, positions, {"a": Normal((64,))})
    rows = [drawn["a"][0], drawn["a"][1], drawn["b"][0], other["a"][0]]
    assert all(not torch.equal(rows[i], rows[j]) for i in range(4) for j in range(i))


def test_shapes_and_distribution():
    drawn = draw(3, torch.arange(4000), {"noise": Normal((4, 4)), "level": Uniform()})
    assert drawn["noise"].shape == (4000, 4, 4) and drawn["level"].shape == (4000, 1)
    assert drawn["noise"].dtype is torch.float32
    noise, level = drawn["noise"].double().flatten(), drawn["level"].double()
    standard_error = len(noise) ** -0.5
    assert abs(noise.mean()) < 4 * standard_error
    assert abs(noise.var() - 1) < 4 * 2**0.5 * standard_error
    assert abs((noise**4).mean() - 3) < 4 * 96**0.5 * standard_error
    assert level.min() >= 0 and level.max() < 1
    ranks = np.sort(level.numpy().ravel())
    assert np.abs(ranks - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / 4000**0.5  # Kolmogorov-Smirnov at 1 %


def test_golden_values():
    """Pinned: a change here changes every study's noise."""
    noise = draw(0, torch.tensor([0, 1]), {"noise": Normal((2,))})["noise"]
    assert torch.allclose(noise, torch.tensor(GOLDEN), atol=1e-6)


GOLDEN = [[0.79962248, 0.38568929], [-2.0812963, -0.82650352]]


def test_a_gpu_counts_as_a_cpu_does():
    key, block = _counters({"noise": 2, "level": 1, "mask": 3}, torch.device("cpu"))
    wanted = np.array([[stream_key(name) for name in ("noise", "noise", "level", "mask", "mask", "mask")]], np.uint64)
    assert (key.numpy().view(np.uint64) == wanted).all() and block.tolist() == [[0, 1, 0, 0, 1, 2]]


@pytest.mark.parametrize("largest", [1.0, 2.0**-10, 2.0**-30, 2.0**-60])
def test_whole_numbers_are_the_floor_of_the_exact_product(largest):
    """In fp64 a product of fp32 and a count is exact; a GPU may have no fp64."""
    uniform, counts = torch.rand(10**5).clamp(max=1 - 2.0**-24) * largest, torch.randint(0, 1001, (10**5,))
    for count in (10, 1000, counts):
        assert torch.equal(whole(uniform, count), (uniform.double() * count).long())
    assert whole(torch.tensor([0.0, 1 - 2.0**-24]), 2**22).tolist() == [0, 2**22 - 1]
