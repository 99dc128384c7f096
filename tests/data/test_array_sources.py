"""Sources that hold rows instead of files: NumPy arrays, parquet, CIFAR-10's pickles."""

import hashlib
import io
import json
import pickle
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest

from ditscale.data.sources import cifar10
from ditscale.errors import UserError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 5, 7, 3), np.uint8)


def read(source):
    return np.stack([source.reader.read(place) for place in source.places])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("images", "labels"), ("arr_0", "arr_1")])
def test_npz(opened, images, tmp_path, save, names):
    save(tmp_path / "x.npz", **dict(zip(names, (images, np.arange(11, dtype=np.int32)))))
    source = opened(tmp_path / "x.npz")
    assert (read(source) == images).all() and source.labels.tolist() == list(range(11))
    assert source.names[:2] == ["00", "01"] and source.classes == 11


def test_npy_and_shapes(opened, images, tmp_path):
    np.save(tmp_path / "labels.npy", np.ones((11, 1), np.uint8))
    for name, array, expected in (("first", images.transpose(0, 3, 1, 2), images), ("grey", images[..., 0], images[..., 0]),
                                  ("one", images[..., :1], images[..., 0]), ("first1", images[:, None, ..., 0], images[..., 0])):
        np.save(tmp_path / f"{name}.npy", array)
        source = opened(tmp_path / f"{name}.npy", labels=tmp_path / "labels.npy", empty_classes=True)
        assert (read(source) == expected).all() and source.labels.tolist() == [1] * 11
    assert "no labels" in opened(tmp_path / "grey.npy").notes[0]


def test_arrays_that_do_not_serve(opened, images, tmp_path):
    np.save(tmp_path / "l.npy", np.arange(11))
    for array, labels, message in ((images / 255, None, "float64; store them as uint8"), (images[0, 0], None, "have shape"),
                                   (images[:0], None, "have shape"), (images[..., :2], None, "have shape"),
                                   (images, np.arange(10), "for 11 images"), (images, np.arange(11) / 2, "integers"),
                                   (images, np.arange(11) - 1, "label -1"),
                                   (images.astype(object), None, "not an array of numbers")):
        np.save(tmp_path / "x.npy", array)
        if labels is not None:
            np.save(tmp_path / "l.npy", labels)
        with pytest.raises(UserError, match=message):
            opened(tmp_path / "x.npy", labels=tmp_path / "l.npy")
    np.savez(tmp_path / "x.npz", pictures=images)
    with pytest.raises(UserError, match="needs the arrays images and labels; it has pictures"):
        opened(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:300])
    with pytest.raises(UserError, match="not a complete .npz"):
        opened(tmp_path / "y.npz")


def test_parquet(opened, photos, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    items, rows = sorted(photos.items()), []

    def write(name, part, **columns):
        table = pa.table({"image": [{"bytes": content, "path": None} for _, content in part], **columns})
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / name, row_group_size=2)

    (tmp_path / "hub" / "data").mkdir(parents=True)
    for number, part in enumerate((items[:5], items[5:])):
        rows += [(f"train-0000{number}-of-00002.parquet:{i}", content) for i, (_, content) in enumerate(part)]
        write(f"hub/data/train-0000{number}-of-00002.parquet", part, label=[int(name[0] == "d") for name, _ in part])
    source = opened(tmp_path / "hub")
    assert [(name, source.reader.read(place)) for name, place in zip(source.names, source.places)] == rows
    assert source.labels.tolist() == [0] * 6 + [1] * 6 and source.class_names == ["cat", "dog"] and source.split == "train"
    write("hub/data/test-00000-of-00001.parquet", items[:1], label=[0])
    with pytest.raises(UserError, match="has the splits test, train"):
        opened(tmp_path / "hub")
    assert len(opened(tmp_path / "hub", split="train").names) == 12
    write("nolabels.parquet", items)
    assert opened(tmp_path / "nolabels.parquet").labels.tolist() == [0] * 12
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(UserError, match="needs a column 'image'; it has text"):
        opened(tmp_path / "text.parquet")
    (tmp_path / "short.parquet").write_bytes((tmp_path / "text.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match="not a complete parquet"):
        opened(tmp_path / "short.parquet")


class Python2(pickle._Pickler):
    """Writes strings and bytes as Python 2 does, in which CIFAR-10's pickles were made."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


@pytest.fixture
def batches():
    """``(files, images, labels)`` in the form of CIFAR-10's Python version, 3 images a batch."""
    random, files, images, labels = np.random.default_rng(0), {}, [], []
    for name in [*cifar10.BATCHES["train"], "test_batch"]:
        data, classes = random.integers(0, 256, (3, 3072), np.uint8), random.integers(0, 10, 3).tolist()
        buffer = io.BytesIO()
        Python2(buffer, 2).dump({"data": data, "labels": classes, "batch_label": name})
        files[f"{cifar10.FOLDER}/{name}"] = buffer.getvalue().replace(b"numpy._core", b"numpy.core")
        images.append(data.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += classes
    files[f"{cifar10.FOLDER}/{cifar10.META}"] = pickle.dumps({"label_names": list("abcdefghij")}, 2)
    return files, np.concatenate(images), labels


def test_cifar10(opened, batches, tree, tmp_path):
    files, images, labels = batches
    folder = tree(files)
    with tarfile.open(tmp_path / cifar10.ARCHIVE, "w:gz") as archive:
        archive.add(folder / cifar10.FOLDER, cifar10.FOLDER)
    for path in (folder, folder / cifar10.FOLDER, tmp_path / cifar10.ARCHIVE):
        train = opened(path, split="train", empty_classes=True)
        assert (read(train) == images[:15]).all() and train.labels.tolist() == labels[:15]
        test = opened(path, split="test", empty_classes=True)
        assert (read(test) == images[15:]).all() and test.class_names == list("abcdefghij") and test.split == "test"
    with pytest.raises(UserError, match="has the splits test, train"):
        opened(folder)


def test_cifar10_runs_no_code(opened, batches, tree, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("owned",)

    files, _, _ = batches
    name = f"{cifar10.FOLDER}/data_batch_2"
    for content, message in ((pickle.dumps(Evil()), "asks for builtins.print"), (b"", "EOFError"),
                             (files[name][:900], "not a batch"), (pickle.dumps({"data": [1]}), "not those of CIFAR-10")):
        folder = tree({**files, name: content})
        with pytest.raises(UserError, match=message):
            opened(folder, split="train")
    (folder / cifar10.FOLDER / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3: cannot be read: No such file"):
        opened(folder, split="train")


def test_cifar10_download(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file; add --download"):
        cifar10.downloaded(tmp_path, allowed=False)

    def no_network(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(UserError, match="cannot be fetched: Name or service not known; fetch it elsewhere"):
        cifar10.downloaded(tmp_path, allowed=True)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"archive"))
    with pytest.raises(UserError, match="is not that of the published archive"):
        cifar10.downloaded(tmp_path, allowed=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(b"archive").hexdigest())
    assert cifar10.downloaded(tmp_path, allowed=True).read_bytes() == b"archive"
    assert cifar10.downloaded(tmp_path, allowed=False).name == cifar10.ARCHIVE
