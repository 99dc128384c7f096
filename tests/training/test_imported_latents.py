"""Training on latents that others encoded: a few steps, a stop, and the same bits."""

import pytest

from ditscale.data.importing import import_latents
from ditscale.rundir import read_lines
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")


@pytest.mark.parametrize("form, flip", [("edm2", False), ("edm2", "mirror"), ("fast-dit", False), ("lightningdit", True)])
def test_it_trains_and_resumes(form, flip, latent_files, digits_values, make_run, world, tmp_path):
    (tmp_path / "source").mkdir()
    source, out = latent_files.make(form, tmp_path / "source"), tmp_path / "latents.beton"
    import_latents(source.path, out, say=lambda line: None, **source.options)
    digits_values["data"] |= {"name": "others", "path": str(out), "resolution": 4, "channels": 4, "classes": 5, "flip": flip}
    digits_values["model"]["name"] = "DiT-atto/2"
    del digits_values["evaluation"]
    config, whole = make_run("whole", {"train.images": 256, "train.checkpoint_every_images": 128})
    assert train(config, whole, world)
    losses = [line["loss/generative"] for line in read_lines(whole.metrics)]
    assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
    steps = iter(range(1, 100))
    config, parts = make_run("parts", {"train.images": 256, "train.checkpoint_every_images": 128})
    assert not train(config, parts, world, stop=lambda: next(steps) >= 2) and train(config, parts, world)
    assert [line["loss/generative"] for line in read_lines(parts.metrics)] == losses
