"""A small file of several pages, and its source arrays."""

from types import SimpleNamespace

import numpy as np
import pytest

from ditscale.data.beton import write_beton


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
