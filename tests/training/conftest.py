"""A world of one in this process."""

import pytest

from ditscale.config import resolve
from ditscale.rundir import RunDir


@pytest.fixture(scope="session")
def world():
    from ditscale.training.distributed import join_world

    return join_world()


@pytest.fixture
def make_run(tmp_path, digits_values):
    """A run directory for ``digits_values`` with changes: ``make_run("name", {"train.precision": "fp32"})``."""
    from ditscale.config import set_key

    def make(name="run", changes={}):
        import copy
        values = copy.deepcopy(digits_values)
        values["resources"] = {"loader": "mmap", "log_every_images": 64, "deepspeed": "ds_configs/zero1.json"}
        for key, value in changes.items():
            set_key(values, key, value)
        config = resolve(values, "test")
        run = RunDir(tmp_path / name)
        run.create({"run_id": name, "config": config.model_dump(mode="json")})
        return config, run
    return make
