"""SiT's own code against ditscale's, on SiT's weights."""

import sit
import torch
from reference import check, each_file, load, relative

from ditscale.models.dit import DiT
from ditscale.models.peers import PEERS


@each_file("sit")
def test_everything_agrees(path):
    check(sit.compare(path))


@each_file("sit")
def test_what_is_left_is_rounding(path, monkeypatch):
    """In fp64 the translated network at 1 - t gives what SiT's weights give at t; in fp32 it is no farther from that than SiT's own code is."""
    file = load(path)
    heads, labels = int(file["dims"][6]), file["labels"]
    x, t = file["linear_xt"], file["t"]
    single = PEERS["sit"](file["weights"], heads)
    rounded = -network(single.weights, single.model)(x, 1 - t, labels)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)            # the model goes to fp32 here and there
    state = {name: value.double() for name, value in file["weights"].items()}
    double = PEERS["sit"](state, heads)
    exact = network(state, double.model)(x.double(), t.double(), labels)
    assert relative(-network(double.weights, double.model)(x.double(), 1 - t.double(), labels), exact) < 1e-9
    assert relative(rounded, exact) < 1.2 * relative(file["linear_model_output"], exact)


def network(weights, sizes):
    model = DiT(**sizes).to(weights["pos_embed"].dtype).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return model
