"""EDM2's reference statistics: read as they are pickled, by any protocol; of what else a pickle may name nothing is loaded."""

import collections
import datetime
import pickle

import numpy as np
import pytest

from ditscale.errors import UserError
from ditscale.evaluation.pickled import read_plain_pickle
from ditscale.evaluation.reference import is_statistics, read_statistics


def written(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def numpy_name(module, name):
    return f"cnumpy._core.{module}\n{name}\n".encode()


def moments(dimensions, seed):
    features = np.random.default_rng(seed).normal(size=(3 * dimensions, dimensions))
    return {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_edm2s_statistics(tmp_path, protocol):
    stats = {"num_images": 50_000, "fid": moments(8, 0), "fd_dinov2": moments(5, 1)}
    path = written(tmp_path / "img512.pkl", stats, protocol)
    assert is_statistics(path)
    for metric in ("fid", "fd_dinov2"):
        reference = read_statistics(path, metric)
        assert np.array_equal(reference.moments.mean, stats[metric]["mu"]) and np.array_equal(reference.moments.covariance, stats[metric]["sigma"])
        assert (reference.samples, reference.images) == (50_000, None)
    with pytest.raises(UserError, match="holds no statistics of fd_digits_cnn; it has fid, fd_dinov2"):
        read_statistics(path, "fd_digits_cnn")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [
    np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3), np.float32), np.array(2.5),
    np.float64(1.5), np.int64(-3), np.array([True, False]), np.arange(3, dtype=np.float16)[::-1]], ids=str)
def test_arrays_come_back(tmp_path, value, protocol):
    found = read_plain_pickle(written(tmp_path / "x.pkl", {"a": [value, "text", None, 3, b"raw"]}, protocol))["a"]
    assert np.array_equal(found[0], value) and found[0].dtype == value.dtype and found[1:] == ["text", None, 3, b"raw"]


@pytest.mark.parametrize("value, named", [
    (collections.Counter("aab"), "collections.Counter"), (datetime.date(2026, 1, 1), "datetime.date"), (print, "__builtin__.print|builtins.print"),
    ({"fid": {"mu": np.array([datetime.date(2026, 1, 1)], object)}}, "datetime.date"), (np.random.default_rng, "default_rng"),
    (collections.OrderedDict(fid=1), "collections.OrderedDict"), (1j, "complex")])
def test_other_names_are_refused(tmp_path, value, named):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(UserError, match=f"no pickle that can be loaded safely: it holds a .*({named})") as error:
            read_plain_pickle(written(tmp_path / "x.pkl", value, protocol))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value, words", [
    (np.array(["a", "b"]), "not of plain numbers"), (np.array([1, "x"], object), "not of plain numbers"),
    (np.zeros(2, [("a", "f4")]), "not of plain numbers"), ({(1, 2): 3}, "keys that are neither"), ({1, 2}, "holds a set|builtins.set"),
    (np.dtype("f8"), "holds a Dtype"), (np.ndarray, "holds a type")], ids=str)
def test_what_is_no_plain_value(tmp_path, value, words):
    with pytest.raises(UserError, match=words):
        read_plain_pickle(written(tmp_path / "x.pkl", value))


def test_damaged_and_endless_ones(tmp_path):
    whole = pickle.dumps({"fid": moments(4, 0)})
    for cut in range(0, len(whole), 7):
        (tmp_path / "x.pkl").write_bytes(whole[:cut])
        with pytest.raises(UserError, match="no pickle that can be loaded safely"):
            read_plain_pickle(tmp_path / "x.pkl")
    rng = np.random.default_rng(0)
    for _ in range(300):                                                       # no flipped byte leads to more than a refusal
        bad = bytearray(whole)
        bad[rng.integers(len(bad))] = rng.integers(256)
        (tmp_path / "x.pkl").write_bytes(bad)
        try:
            read_plain_pickle(tmp_path / "x.pkl")
        except UserError as error:
            assert "\n" not in str(error)
    numpys = numpy_name("multiarray", "_reconstruct")
    for bad in (numpys + b"N}X\x01\x00\x00\x00aK\x01s\x86b.",                 # sets an attribute of the function
                b"cnumpy\nndarray\n}X\x05\x00\x00\x00stateK\x01sb.", b"Nr\xff\xff\xff\xff."):  # of the class; a memo of 64 GiB
        (tmp_path / "x.pkl").write_bytes(bad)
        try:
            assert read_plain_pickle(tmp_path / "x.pkl") is None
        except UserError as error:
            assert "no pickle that can be loaded safely" in str(error)
    endless: list = []
    endless.append(endless)
    with pytest.raises(UserError, match="more than 20 levels"):
        read_plain_pickle(written(tmp_path / "x.pkl", endless))


@pytest.mark.parametrize("tool, extra", [
    ("pytorch-fid", {}), ("clean-fid", {}), ("edm", {}),
    ("adm", {"mu_s": np.zeros(3), "sigma_s": np.eye(3), "arr_0": np.zeros((4, 8, 8, 3), np.uint8), "arr_1": np.arange(4)})])
def test_npz_of_each_tool(tmp_path, tool, extra):
    np.savez(tmp_path / f"{tool}.npz", **moments(8, 0), **extra)
    reference = read_statistics(tmp_path / f"{tool}.npz")
    assert reference.moments.dimensions == 8 and (reference.spatial_moments is not None) == (reference.images is not None) == (tool == "adm")
