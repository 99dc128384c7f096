"""A small file of several pages and its source arrays; small images."""

import io
import pickle
import resource
import tarfile
import zipfile
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ditscale.data.beton import write_beton
from ditscale.data.sources import open_source
from ditscale.errors import UserError


@pytest.fixture(scope="session")
def source():
    """45 images of 98 kB, so that a page of 2 MiB holds 21 of them, and labels with negative and large values."""
    random = np.random.default_rng(0)
    labels = random.integers(-5, 2**40, 45)
    return {"image": random.integers(0, 256, (45, 2, 224, 219), dtype=np.uint8), "label": labels}


@pytest.fixture(scope="session")
def stored(source, tmp_path_factory):
    """The source written by numpy: ``.path``, ``.images``, ``.labels``."""
    path = tmp_path_factory.mktemp("stored") / "images.beton"
    write_beton(path, source)
    return SimpleNamespace(path=path, images=source["image"], labels=source["label"])


@pytest.fixture(scope="session")
def ffcv_backend():
    """The module that touches FFCV; tests that need it are skipped where FFCV does not import."""
    from ditscale.data.ffcv_import import load_ffcv

    backend, reason = load_ffcv()
    if backend is None:
        pytest.skip(reason)
    return backend


@pytest.fixture(params=["ffcv", "mmap"])
def backend(request):
    """Both loaders in turn."""
    if request.param == "ffcv":
        request.getfixturevalue("ffcv_backend")
    return request.param


@pytest.fixture(scope="session")
def photos():
    """``{name: PNG bytes}`` of 12 images of odd shapes in two class folders; the same file names come in both."""
    random, made = np.random.default_rng(0), {}
    for number in range(6):
        for name in ("cat", "dog"):
            height, width = random.integers(9, 60, 2)
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
            made[f"{name}/{number}.png"] = buffer.getvalue()
    return made


@pytest.fixture
def tree(tmp_path):
    """``tree(files)`` writes ``{name: bytes}`` below a new folder and returns it."""
    def write(files, name="source"):
        for inner, content in files.items():
            path = tmp_path / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / name
    return write


@pytest.fixture
def files_limited_to():
    """``with files_limited_to(size)``: no file of this process may grow beyond ``size`` bytes: what a full disk looks like."""
    @contextmanager
    def limited(size):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return limited


@pytest.fixture
def opened(tmp_path):
    """``opened(path, **options)``: the source, after a trip to another process as far as pickle is concerned."""
    def open_it(path, **options):
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return pickle.loads(pickle.dumps(open_source(path, scratch=tmp_path / "scratch", **options)))
    return open_it


@pytest.fixture
def refused(opened):
    """``refused(path, **options)``: the one line with which a source is refused."""
    def said(path, **options):
        with pytest.raises(UserError) as caught:
            opened(path, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)
    return said


@pytest.fixture(scope="session")
def contents():
    """``contents(source)``: what is read and the label, by name."""
    def read(source):
        rows = zip(source.names, source.places, source.labels)
        return {name: (source.reader.read(place), int(label)) for name, place, label in rows}
    return read


@pytest.fixture(scope="session")
def packed():
    """``packed(path, files)``: an archive of ``{name: bytes}``, a zip or, with tarfile's ``mode``, a tar; ``duplicate`` comes again."""
    def pack(path, files, mode="w", duplicate=None):
        items = [*files.items(), *([(duplicate, b"again")] if duplicate else [])]
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in items:
                    archive.writestr(name, content)
            return path
        with tarfile.open(path, mode) as target:
            for name, content in items:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))
        return path
    return pack
