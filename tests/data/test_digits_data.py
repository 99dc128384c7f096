import json
import os

import numpy as np
import pytest

from ditscale.data import ffcv_import
from ditscale.data.beton import BetonFile
from ditscale.data.digits import build_digits, load_digits
from ditscale.data.manifest import content_blake2b, read_manifest
from ditscale.errors import UserError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "new"
    return folder, build_digits(folder)


def everything(path):
    file = BetonFile(path)
    return [file.read(name, np.arange(file.num_samples)) for name in ("image", "label")]


def test_the_split_is_what_it_says(built):
    folder, summary = built
    assert summary.built
    assert sorted(os.listdir(folder)) == ["heldout.beton", "heldout.json", "train.beton", "train.json"]
    source_images, source_labels, _ = load_digits()
    assert source_images.shape == (1797, 1, 8, 8)
    assert set(np.unique(source_images)) == {round(v * 255 / 16) for v in range(17)}
    parts = {split: everything(folder / f"{split}.beton") for split in ("train", "heldout")}
    assert {split: len(labels) for split, (_, labels) in parts.items()} == {"train": 1437, "heldout": 360}
    assert np.bincount(parts["heldout"][1]).tolist() == [36] * 10
    together = sorted((*image.ravel(), label) for part in parts.values() for image, label in zip(*part))
    assert together == sorted((*image.ravel(), label) for image, label in zip(source_images, source_labels))


def test_content_is_pinned(built):
    """The feature network, the scores and the published numbers of the demo hang on these."""
    summary = built[1]
    assert summary.train.source_blake2b == summary.heldout.source_blake2b == \
        "fe71ccb9ac040f8d39c2a4efc028fe1b1683e15bc3ce4ee97bc34b20ed50e369"
    assert summary.heldout.content_blake2b == "ccdaa2beabb92017e8c8f64f1be2af3cb66fb76c702e1a84e0df2a87e55d57f9"
    assert summary.train.content_blake2b == "da952f04fe9db2f0aa0544df389c9ff823ac7b45de44e61c095ad381e5333bf4"


def test_the_manifest_describes_the_file(built):
    folder, summary = built
    for split in ("train", "heldout"):
        images, labels = everything(folder / f"{split}.beton")
        manifest = read_manifest(folder / f"{split}.beton")
        assert manifest == getattr(summary, split)
        assert manifest.content_blake2b == content_blake2b(images, labels)
        assert (manifest.name, manifest.split, manifest.samples) == ("digits", split, len(images))
        assert (manifest.shape, manifest.classes) == ([1, 8, 8], 10)
        assert manifest.class_counts == np.bincount(labels).tolist() and manifest.writer in ("ffcv", "numpy")


def test_builds_once_and_mends_what_is_damaged(built):
    folder, _ = built
    stamps = {name: os.stat(folder / name).st_mtime_ns for name in os.listdir(folder)}
    again = build_digits(folder)
    assert not again.built and "1437 training and 360 held-out" in str(again)
    assert stamps == {name: os.stat(folder / name).st_mtime_ns for name in os.listdir(folder)}

    path = folder / "heldout.beton"
    whole = path.read_bytes()
    pixel = bytearray(whole)
    pixel[2**21 + 5] ^= 1
    for damage in (whole[:-1], bytes(pixel)):
        path.write_bytes(damage)
        assert build_digits(folder).built and path.read_bytes() == whole
    (folder / "train.json").write_text("{")
    assert build_digits(folder).built
    assert read_manifest(folder / "train.beton").samples == 1437


def test_numpy_writes_the_same_files(built, tmp_path, monkeypatch):
    monkeypatch.setattr(ffcv_import, "load_ffcv", lambda: (None, "not today"))
    assert build_digits(tmp_path).train.writer == "numpy"
    for split in ("train", "heldout"):
        assert (tmp_path / f"{split}.beton").read_bytes() == (built[0] / f"{split}.beton").read_bytes()


def test_where_it_cannot_be_built(tmp_path):
    (tmp_path / "file").touch()
    for folder, message in ((tmp_path / "file", "is a file, not a folder"),
                            (tmp_path / "file" / "below", "cannot be written"),
                            ("/proc/ditscale", "cannot be written")):
        with pytest.raises(UserError, match=message) as caught:
            build_digits(folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_from_before_the_later_fields_is_read(built, tmp_path):
    values = json.loads((built[0] / "train.json").read_text())
    for later in ("kind", "crop", "encoder", "handled", "skipped", "class_names"):
        del values[later]
    (tmp_path / "train.json").write_text(json.dumps(values))
    assert read_manifest(tmp_path / "train.beton") == built[1].train
    (tmp_path / "train.json").write_text(json.dumps({"name": "digits"}))
    with pytest.raises(UserError, match="train.json: has no class_counts, classes, .* build the data again"):
        read_manifest(tmp_path / "train.beton")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match="x.json: cannot be read: No such file"):
        read_manifest(tmp_path / "x.beton")
