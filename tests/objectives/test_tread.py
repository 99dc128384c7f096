"""TREAD: the route by hand through the same blocks, its defaults at every depth, and sampling as the baseline samples."""

import pytest
import torch

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.evaluation.sampling.model import frozen_model
from ditscale.models.blocks import DESIGNS
from ditscale.models.sizes import SIZES
from ditscale.objectives import VARIANTS
from ditscale.objectives.from_config import build_model
from ditscale.randomness import draw

TREAD = {"name": "tread"}


def route_by_hand(model, x, t, y, kept, start, end):
    """Image by image, token by token in fp64: those that are not kept sit out blocks ``start`` to ``end``."""
    condition, images = model.condition(t, y), []
    for i in range(len(x)):
        c = condition.c[i:i + 1]
        extra = [] if condition.tokens is None else list(condition.tokens[i])
        tokens = dict(enumerate(model.embed(x[i:i + 1])[0]))
        for number, block in enumerate(model.blocks):
            going = sorted(kept[i].tolist()) if start <= number <= end else sorted(tokens)
            out = block(torch.stack([tokens[place] for place in going] + extra)[None], c)[0]
            tokens |= dict(zip(going, out))
            extra = list(out[len(going):])
        images.append(model.to_image(torch.stack([tokens[place] for place in sorted(tokens)])[None], c))
    return torch.cat(images)


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("options", [{}, {"ratio": 0.75, "start": 0, "end": 5}, {"start": 2, "end": 2}], ids=["default", "all blocks", "one"])
def test_the_loss_is_that_of_a_route_by_hand(setting, values, block, options):
    values["model"]["block"] = block
    s = setting({**TREAD, **options}, batch=3)
    model = s.model.double()
    noised = s.objective.noised(s.batch, s.draws)
    kept = s.draws["token mask"].argsort(dim=1)[:, :16 - round(16 * options.get("ratio", 0.5))]
    x, t = s.objective.formulation.model_inputs(noised.noisy, noised.t)
    output = route_by_hand(model, x.double(), t, noised.labels, kept, options.get("start", 1), options.get("end", 3))
    wanted = ((output - (noised.noise - s.batch.images)) ** 2).mean()             # flow's target, over all tokens
    found = s.objective(model, s.batch, s.draws).losses
    assert found.keys() == {"generative"} and found["generative"].item() == pytest.approx(wanted.item(), rel=1e-6)
    routed, whole = (model(x.double(), t, noised.labels, kept=places) for places in (kept.sort(dim=1).values, None))
    assert torch.allclose(routed, output, rtol=0, atol=1e-12) and not torch.allclose(whole, output, rtol=0, atol=1e-4)


@pytest.mark.parametrize("depth, route", [(1, (0, 0)), (2, (0, 0)), (3, (1, 1)), (4, (1, 2)), (6, (1, 3)), (12, (2, 8)), (24, (2, 20)), (28, (2, 24))])
def test_default_routes(depth, route):
    """Of 12 blocks and more the paper's 2 to depth - 4."""
    assert VARIANTS["tread"](name="tread").route(depth) == route


def test_every_depth_and_size_has_a_route():
    for depth in {*range(1, 100), *(size.depth for size in SIZES.values())}:
        start, end = VARIANTS["tread"](name="tread").route(depth)
        assert 0 <= start <= end < depth


def test_tokens_are_drawn_by_image_and_step(setting):
    whole, part = setting(TREAD, batch=8), setting(TREAD, batch=2, start=4)
    assert torch.equal(whole.draws["token mask"][4:6], part.draws["token mask"])
    later = draw(0, torch.tensor([5, 5 + 640]), whole.objective.streams)["token mask"]
    assert not torch.equal(*later) and torch.equal(later[0], part.draws["token mask"][1])


@pytest.mark.parametrize("options, words", [
    ({"ratio": 0.0}, "greater than 0"), ({"ratio": 1.0}, "less than 1"), ({"end": 6}, "objective.end 6: the model has blocks 0 to 5, counted from 0"),
    ({"start": 4}, "objective.start 4 is after objective.end 3, so no block would be skipped; the default for 6 blocks, counted from 0, is 1 to 3"),
])
def test_refused(values, options, words):
    values["objective"], values["model"]["name"] = {**TREAD, **options}, "DiT-nano/2"
    with pytest.raises(UserError, match=words):
        resolve(values, "test")


def test_a_single_token_is_refused(values):
    values["objective"], values["model"]["name"] = TREAD, "DiT-nano/8"
    with pytest.raises(UserError, match="objective.ratio 0.5 masks none of the model's 1 token"):
        resolve(values, "test")


def test_its_weights_sample_as_the_baselines_bit_for_bit(values):
    """And its model starts from the baseline's weights, every one."""
    values["objective"], values["model"]["name"] = TREAD, "DiT-nano/2"
    routed = resolve(values, "test")
    plain = resolve({**values, "objective": {"name": "baseline"}}, "test")
    first, second = build_model(routed).state_dict(), build_model(plain).state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    weights = {name: torch.randn_like(value) * 0.05 for name, value in first.items()}
    x, t, y = torch.randn(4, 1, 8, 8), torch.rand(4) * 1000, torch.arange(4)
    with torch.no_grad():
        one, two = (frozen_model(config, weights, torch.device("cpu"))(x, t, y) for config in (routed, plain))
    assert one.abs().mean() > 0.01 and torch.equal(one, two)
