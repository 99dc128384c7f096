"""A build is right, the same every time, and leaves nothing half-written."""

import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ditscale.data import build as build_module, chunks
from ditscale.data.beton import BetonFile, write_beton
from ditscale.data.build import build_images
from ditscale.data.decode import adm_crop
from ditscale.data.loader import StreamLoader
from ditscale.data.manifest import content_blake2b, read_manifest
from ditscale.errors import UserError


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Four images a chunk, so that a dozen images make several."""
    monkeypatch.setattr(chunks, "CHUNK_IMAGES", 4)


@pytest.fixture
def source(photos, tree):
    return tree(photos)


@pytest.fixture
def broken(photos, tree):
    """One of the 12 is cut short, one is a text."""
    return tree({**photos, "cat/2.png": photos["cat/2.png"][:-60], "dog/0.png": b"no image"}, "broken")


def build(source, out, **options):
    return build_images(source, out, **{"size": 24, "workers": 1, **options})


def expected(photos, names=None):
    """Images (N, 3, 24, 24) and labels by Pillow and the crop alone."""
    names = sorted(photos) if names is None else names
    images = [np.asarray(adm_crop(Image.open(io.BytesIO(photos[name])).convert("RGB"), 24)).transpose(2, 0, 1) for name in names]
    return np.stack(images), np.array([int(name.startswith("dog")) for name in names])


def stored(path):
    file = BetonFile(path)
    return [file.read(name, np.arange(file.num_samples)) for name in ("image", "label")]


def refused(source, out, **options) -> str:
    with pytest.raises(UserError) as caught:
        build(source, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_stored_and_what_the_manifest_says(source, photos, tmp_path):
    summary = build(source, tmp_path / "made" / "x.beton")
    images, labels = expected(photos)
    read = stored(summary.path)
    assert (read[0] == images).all() and (read[1] == labels).all()
    assert sorted(os.listdir(summary.path.parent)) == ["x.beton", "x.json"]
    manifest = read_manifest(summary.path)
    assert manifest == summary.manifest and manifest.content_blake2b == content_blake2b(images, labels)
    assert (manifest.name, manifest.split, manifest.samples, manifest.shape) == ("source", "all", 12, [3, 24, 24])
    assert (manifest.kind, manifest.crop, manifest.encoder, manifest.skipped) == ("pixels", "adm 24", None, [])
    assert (manifest.classes, manifest.class_counts, manifest.class_names) == (2, [6, 6], ["cat", "dog"])
    small = sum(min(Image.open(io.BytesIO(content)).size) < 24 for content in photos.values())
    assert manifest.handled == {"enlarged": small} and f"{small} images were smaller than 24 pixels" in str(summary)
    write_beton(tmp_path / "whole.beton", {"image": images, "label": labels})
    assert summary.path.read_bytes() == (tmp_path / "whole.beton").read_bytes()


@pytest.mark.parametrize("backend", ["mmap", "ffcv"])
def test_the_loaders_read_it(source, photos, tmp_path, backend, request):
    if backend == "ffcv":
        request.getfixturevalue("ffcv_backend")
    build(source, tmp_path / "x.beton")
    images, labels = expected(photos)
    options = {"seed": 0, "global_batch": 6, "micro_batch": 6, "end_images": 12, "backend": backend}
    with StreamLoader(tmp_path / "x.beton", **options) as loader:
        batches = [(batch.raw.numpy().copy(), batch.labels.numpy()) for batch in loader]
    rows = sorted((label, image.tobytes()) for images_, labels_ in batches for image, label in zip(images_, labels_))
    assert rows == sorted((label, image.tobytes()) for image, label in zip(images, labels))


def test_two_workers_write_the_same_bytes(source, tmp_path):
    for workers in (1, 2):
        build(source, tmp_path / f"{workers}.beton", workers=workers)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / "2.beton").read_bytes()
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_greyscale(source, photos, tmp_path):
    build(source, tmp_path / "x.beton", channels=1)
    grey = [np.asarray(adm_crop(Image.open(io.BytesIO(photos[name])).convert("L"), 24)) for name in sorted(photos)]
    assert (stored(tmp_path / "x.beton")[0] == np.stack(grey)[:, None]).all()


def test_images_that_cannot_be_read(broken, photos, tmp_path, capfd):
    out = tmp_path / "out" / "x.beton"
    message = refused(broken, out)
    assert f"{broken}: cannot use 2 images: cat/2.png (" in message and "truncated" in message
    assert "dog/0.png (not an image" in message and "--on-error skip" in message
    assert "dog/0.png: not an image" in capfd.readouterr().err                  # said as soon as it was found
    assert os.listdir(out.parent) == [".x.beton.partial"]

    made = {path.name: path.stat().st_mtime_ns for path in (out.parent / ".x.beton.partial").glob("*.pixels")}
    assert len(made) == 3
    summary = build(broken, out, skip_errors=True)
    kept = [name for name in sorted(photos) if name not in ("cat/2.png", "dog/0.png")]
    images, labels = expected(photos, kept)
    read = stored(out)
    assert (read[0] == images).all() and (read[1] == labels).all()
    assert [item["name"] for item in summary.manifest.skipped] == ["cat/2.png", "dog/0.png"]
    assert summary.manifest.class_counts == [5, 5] and "left out: 2 images: cat/2.png" in str(summary)
    assert not build(broken, out, skip_errors=True).built
    assert "exists already, without 2 images" in refused(broken, out)
    write_beton(tmp_path / "whole.beton", {"image": images, "label": labels})
    assert out.read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_no_image_at_all_can_be_read(tree, tmp_path):
    assert "no image can be used: 1 image: a.png" in refused(tree({"a.png": b""}), tmp_path / "x.beton", skip_errors=True)
    assert "x.beton" not in os.listdir(tmp_path)


def test_files_that_vanish(source, tmp_path, monkeypatch):
    def vanish(*arguments):
        shutil.rmtree(source / "dog")
        return make(*arguments)

    make = build_module._make
    monkeypatch.setattr(build_module, "_make", vanish)
    assert "dog/0.png (No such file or directory)" in refused(source, tmp_path / "x.beton")


def test_the_same_build_again(source, photos, tmp_path):
    out = tmp_path / "x.beton"
    build(source, out)
    stamps = [os.stat(tmp_path / name).st_mtime_ns for name in ("x.beton", "x.json")]
    again = build(source, out, workers=2)
    assert not again.built and "already there, checked" in str(again)
    assert stamps == [os.stat(tmp_path / name).st_mtime_ns for name in ("x.beton", "x.json")]
    assert "is another build: shape [3, 24, 24], not [3, 32, 32]" in refused(source, out, size=32)
    (source / "cat" / "1.png").write_bytes(photos["cat/2.png"])
    assert "exists already with other images or labels" in refused(source, out)
    (source / "cat" / "1.png").write_bytes(photos["cat/1.png"])
    content = bytearray(out.read_bytes())
    content[2**21 + 5] ^= 1
    out.write_bytes(content)
    assert "is not what its manifest says" in refused(source, out)
    (tmp_path / "x.json").unlink()
    assert "exists already and has no manifest" in refused(source, out)
    assert sorted(os.listdir(tmp_path)) == ["source", "x.beton"]


def test_where_it_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "x.json").write_text("{}")
    for out, message in ((tmp_path, "is a folder; name the file to write"), (tmp_path / "x.bin", "ends in .beton"),
                         (tmp_path / "file" / "x.beton", "cannot be written: Not a directory"),
                         (tmp_path / "x.beton", "x.json: exists and is not a manifest of ditscale")):
        assert message in refused(source, out)
    assert "no such file or folder" in refused(tmp_path / "nowhere", tmp_path / "new" / "x.beton")
    (tmp_path / ".y.beton.partial").mkdir()
    with open(tmp_path / ".y.beton.partial" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another build of it is running" in refused(source, tmp_path / "y.beton")
    assert sorted(os.listdir(tmp_path)) == [".y.beton.partial", "file", "source", "x.json"]


@pytest.mark.parametrize("limit", [5_000, 3_000_000])                           # in a chunk; in the file itself, of 4 MiB
def test_a_full_disk(source, tmp_path, files_limited_to, limit):
    out = tmp_path / "out" / "x.beton"
    with files_limited_to(limit):
        assert "cannot be written: File too large" in refused(source, out)
    assert os.listdir(out.parent) in ([], [".x.beton.partial"])
    assert build(source, out).built and sorted(os.listdir(out.parent)) == ["x.beton", "x.json"]


def test_a_disk_that_is_too_small_is_seen_before(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 2 * 12 * 3 * 24 * 24 - 1))
    assert "GiB are needed while the file is built" in refused(source, tmp_path / "x.beton")
    assert os.listdir(tmp_path) == ["source"]


PROGRAM = """
import sys, time
from ditscale.data import build, chunks
chunks.CHUNK_IMAGES = 4
source, out, workers, sleep = sys.argv[1:]
class Slow(build.Workers):
    def each(self, function, tasks):
        for done in super().each(function, tasks):
            print(done[0], flush=True)
            time.sleep(float(sleep))
            yield done
build.Workers = Slow
build.build_images(source, out, size=24, workers=int(workers))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_and_again(source, tmp_path, workers):
    out = tmp_path / "out" / "x.beton"
    command = [sys.executable, "-c", PROGRAM, str(source), str(out), str(workers), "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while _alive(process.pid):                                                  # workers see it within a second
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)
    partial = out.parent / ".x.beton.partial"
    assert os.listdir(out.parent) == [partial.name]
    made = {path.name for path in partial.glob("*.json")}
    assert made
    done = subprocess.run(command[:-2] + [str(workers), "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3 - len(made)                            # chunks made now: those that were missing
    build(source, tmp_path / "fresh.beton")
    assert out.read_bytes() == (tmp_path / "fresh.beton").read_bytes()
    assert sorted(os.listdir(out.parent)) == ["x.beton", "x.json"]


def test_what_a_killed_build_had_begun_to_write_goes(source, tmp_path):
    out = tmp_path / "x.beton"
    partial = tmp_path / ".x.beton.partial"
    partial.mkdir()
    (partial / ".x.beton.12345678").write_bytes(b"half of it")
    build(source, out)
    assert sorted(os.listdir(tmp_path)) == sorted([source.name, "x.beton", "x.json"])


def _alive(session: int) -> bool:
    """Whether a process of the session runs."""
    try:
        os.killpg(session, 0)
        return True
    except ProcessLookupError:
        return False


def test_a_damaged_chunk_is_made_again(broken, tmp_path):
    """What a power failure may leave behind."""
    refused(broken, tmp_path / "x.beton")
    first, second, _ = sorted((tmp_path / ".x.beton.partial").glob("*.pixels"))
    first.write_bytes(bytes(first.stat().st_size))
    second.with_suffix(".json").write_text("")
    build(broken, tmp_path / "x.beton", skip_errors=True)
    build(broken, tmp_path / "fresh.beton", skip_errors=True)
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "fresh.beton").read_bytes()


def test_chunks_of_other_options_are_not_taken(broken, tmp_path):
    out = tmp_path / "x.beton"
    refused(broken, out)
    summary = build(broken, out, size=16, skip_errors=True)
    assert summary.manifest.shape == [3, 16, 16] and sorted(os.listdir(tmp_path)) == ["broken", "x.beton", "x.json"]


def test_a_worker_that_dies(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "make_chunk", _die)
    assert "a worker process died (out of memory?)" in refused(source, tmp_path / "x.beton", workers=2)
    assert os.listdir(tmp_path) == ["source"]


def _die(task):
    os._exit(9)
