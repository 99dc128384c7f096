"""The formulations."""

import pytest

from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.flow import Flow


@pytest.fixture(params=["ddpm", "edm", "flow", "flow_cosine"])
def formulation(request):
    return {"ddpm": Ddpm, "edm": Edm, "flow": Flow, "flow_cosine": lambda: Flow("cosine")}[request.param]()
