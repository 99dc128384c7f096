"""Each auxiliary loss against a reference of a few lines in fp64, and what its gradient reaches."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

from ditscale import randomness
from ditscale.errors import UserError
from ditscale.models.blocks import DESIGNS
from ditscale.objectives.auxiliary.repa.alignment import on_grid


def with_loss(*losses):
    return {"name": "baseline", "with": list(losses)}


def terms_of(made):
    """All losses, in fp32; then the models are made fp64, for the reference."""
    if made.objective.has_teacher:
        made.objective.teacher = copy.deepcopy(made.model)
        for p in made.objective.teacher.parameters():
            p.data.mul_(0.9)
    losses = made.objective(made.model, made.batch, made.draws).losses
    for model in (made.model, made.objective.teacher):
        if model is not None:
            model.double()
    return losses


def tokens_after(model, block, noisy, time, labels):
    """(B, T, H): the embedded patches through the first blocks, one by one."""
    condition = model.condition(time, labels)
    x = model.embed(noisy)
    count = x.shape[1]
    if condition.tokens is not None:
        x = torch.cat([x, condition.tokens], dim=1)
    for number in range(block):
        x = model.blocks[number](x, condition.c)
    return x[:, :count]


def pass_of(made):
    """The noised batch, and the inputs of the network, in fp64 but for the levels."""
    noised = made.objective.noised(made.batch, made.draws)
    noised = noised._replace(noisy=noised.noisy.double(), noise=noised.noise.double())
    x, time = made.objective.formulation.model_inputs(noised.noisy, noised.t)
    return noised, (x.double(), time, noised.labels)


def mlp(head, x):
    """Linear layers with SiLU between, written out."""
    layers = [layer for layer in head if hasattr(layer, "weight")]
    for number, layer in enumerate(layers):
        x = x @ layer.weight.T + layer.bias
        x = x / (1 + torch.exp(-x)) if number < len(layers) - 1 else x
    return x


def smooth_l1(a, b, beta):
    away = (a - b).abs()
    return torch.where(away < beta, away**2 / (2 * beta), away - beta / 2).mean()


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("option, tap", [(None, 1), (4, 4), ("last", 6)])
def test_dispersive(setting, option, tap, block):
    setting_values = {"name": "dispersive", "group": 4, "tau": 0.7, "weight": 0.3}
    made = setting(with_loss(setting_values | ({"block": option} if option else {})), design=block)
    found = terms_of(made)["dispersive"]
    _, inputs = pass_of(made)
    z = tokens_after(made.model, tap, *inputs).flatten(1)
    groups = []
    for first in (0, 4):
        own = z[first:first + 4]
        pairs = [torch.exp(-((a - b)**2).sum() / (z.shape[1] * 0.7)) for a in own for b in own]
        groups.append(torch.log(sum(pairs) / 16))
    assert found.item() == pytest.approx(0.3 * (sum(groups) / 2).item(), rel=2e-5)


def test_dispersive_of_equal_images_is_zero(setting):
    made = setting(with_loss({"name": "dispersive", "group": 4}))
    for values in (made.batch.images, made.batch.labels, *made.draws.values()):
        values[:] = values[:1].clone()
    assert abs(terms_of(made)["dispersive"].item()) < 1e-6


@pytest.mark.parametrize("formulation", ["flow", "edm", {"name": "flow", "interpolant": "cosine"}])
def test_contrastive(setting, formulation):
    made = setting(with_loss({"name": "contrastive", "group": 4}), formulation=formulation)
    found, (noised, inputs) = terms_of(made), pass_of(made)
    output, clean, noise, t = made.model(*inputs), made.batch.images.double(), noised.noise, noised.t[:, None, None, None].double()
    other = [1, 2, 3, 0, 5, 6, 7, 4]
    if formulation == "flow":
        target = noise[other] - clean[other]
    elif formulation == "edm":
        noisy, total = clean[other] + t * noise[other], t**2 + 0.25
        target = (clean[other] - 0.25 / total * noisy) * total.sqrt() / (0.5 * t)
    else:
        target = torch.pi / 2 * (torch.cos(torch.pi / 2 * t) * noise[other] - torch.sin(torch.pi / 2 * t) * clean[other])
    assert found["contrastive"].item() == pytest.approx(-0.05 * (output - target).square().mean().item(), rel=2e-5)
    plain = setting({"name": "baseline"}, formulation=formulation)
    assert plain.batch.images.equal(made.batch.images) and set(found) == {"generative", "contrastive"}


@pytest.mark.parametrize("interpolant", ["linear", "cosine"])
def test_contrastive_of_a_clean_image_is_in_velocity(setting, interpolant):
    """As the loss itself: at low levels, where x_t is almost the image, another image pushes the implied velocity and not the image."""
    made = setting(with_loss({"name": "contrastive", "group": 4}), formulation={"name": "flow", "prediction": "x", "interpolant": interpolant})
    made.draws["noise level"] = torch.linspace(0.01, 0.9, 8)[:, None]
    found, (noised, inputs) = terms_of(made)["contrastive"], pass_of(made)
    output, clean, noise, t = made.model(*inputs), made.batch.images.double(), noised.noise, noised.t[:, None, None, None].double()
    other, half = [1, 2, 3, 0, 5, 6, 7, 4], torch.pi / 2
    below = t.clamp(min=0.05)                                                  # what is divided by, in the loss too
    if interpolant == "linear":
        velocity = (noised.noisy - output) / below
        target = t / below * (noise[other] - clean[other])
    else:
        velocity = (half * torch.cos(half * t) * noised.noisy - half * output) / torch.sin(half * below)
        target = half * torch.sin(half * t) / torch.sin(half * below) * (torch.cos(half * t) * noise[other] - torch.sin(half * t) * clean[other])
    assert found.item() == pytest.approx(-0.05 * (velocity - target).square().mean().item(), rel=2e-5)


@pytest.mark.parametrize("formulation", ["flow", "edm", "ddpm"])
@pytest.mark.parametrize("distance", ["cosine", "smooth_l1"])
def test_sra(setting, formulation, distance):
    made = setting(with_loss({"name": "sra", "distance": distance, "t_max": 0.4}), formulation=formulation)
    made.draws["label drop"][:3] = 0
    found, (noised, inputs) = terms_of(made)["sra"], pass_of(made)
    student = mlp(made.model.auxiliary["sra"], tokens_after(made.model, 2, *inputs))          # nano has 6 blocks
    by, clean = 0.4 * made.draws["sra level"][:, 0].double(), made.batch.images.double()
    t = noised.t.double()
    if formulation == "flow":
        level = (t - by).clamp(min=0)
        cleaner, time = (1 - level[:, None, None, None]) * clean + level[:, None, None, None] * noised.noise, 1000 * level
    elif formulation == "edm":
        share = (t / (1 + t) - by).clamp(min=0.002 / 1.002)
        level = share / (1 - share)
        cleaner, time = clean + level[:, None, None, None] * noised.noise, 250 * torch.log(level)
        cleaner = cleaner / torch.sqrt(level**2 + 0.25)[:, None, None, None]
    else:
        level = (t.long() - torch.floor(by * 1000).long()).clamp(min=0)
        signal = torch.from_numpy(made.objective.formulation.signal_squared)[level][:, None, None, None]
        cleaner, time = signal.sqrt() * clean + (1 - signal).sqrt() * noised.noise, level.double()
    teacher = tokens_after(made.objective.teacher, 4, cleaner, time, noised.labels)
    if distance == "cosine":
        cosine = (student * teacher).sum(-1) / (student.norm(dim=-1) * teacher.norm(dim=-1))
        expected = 0.5 * (1 - cosine.mean())
    else:
        expected = 2 * smooth_l1(student, teacher, 0.05)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)            # sinusoids of fp32 times up to 1000
    assert noised.labels.eq(10).any() and (t >= level - 1e-6).all() and (t > level).any()


@pytest.mark.parametrize("formulation", ["flow", "ddpm"])
def test_sra2(setting, formulation):
    made = setting(with_loss({"name": "sra2", "layers": 3, "hidden": 24}), formulation=formulation)
    found, (_, inputs) = terms_of(made)["sra2"], pass_of(made)
    mapped = mlp(made.model.auxiliary["sra2"], tokens_after(made.model, 1, *inputs))
    patches = made.batch.images.double().reshape(8, 1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(8, 16, 4)
    assert found.item() == pytest.approx(smooth_l1(mapped, patches, 0.05).item(), rel=2e-5)


class Stripes(torch.nn.Module):
    """Features of 6 numbers from each patch of 2 x 2, or of ``cells`` x ``cells``; ``form`` is a fault."""

    def __init__(self, cells=4, form=""):
        super().__init__()
        self.cells, self.form = cells, form
        self.linear = torch.nn.Linear((8 // cells)**2, 6, bias=False)
        torch.nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, images):
        side = 8 // self.cells
        patches = images.reshape(-1, self.cells, side, self.cells, side).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
        features = self.linear(patches)
        return {"": features, "pooled": features.mean(1), "narrow": features[..., :5], "odd": features[:, :-1]}[self.form]


REPA = {"name": "repa", "feature_width": 6, "encoder": f"{__name__}:Stripes", "encoder_macs": 0}


@pytest.fixture
def here(monkeypatch):
    """This file can be imported by its name."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(Stripes=Stripes))


def test_repa(setting, here):
    made = setting(with_loss({**REPA, "hidden": 20, "block": 3}))
    found, (_, inputs) = terms_of(made)["repa"], pass_of(made)
    projected = mlp(made.model.auxiliary["repa"], tokens_after(made.model, 3, *inputs))
    features = Stripes().double()(made.batch.images.double()).detach()
    cosine = (projected * features).sum(-1) / (projected.norm(dim=-1) * features.norm(dim=-1))
    assert found.item() == pytest.approx(-0.5 * cosine.mean().item(), rel=2e-5)


def test_repa_resamples_a_square_grid(setting, here):
    """Of 8 x 8 features to 4 x 4 tokens, antialiased: a constant stays, and a ramp stays one inside."""
    made = setting(with_loss({**REPA, "encoder_options": {"cells": 8}}))
    assert torch.isfinite(terms_of(made)["repa"])
    rows = torch.arange(8.0)[:, None].expand(8, 8)
    ramp = torch.stack([rows, rows.T, torch.full((8, 8), 3.0)], dim=-1).reshape(1, 64, 3)
    small = on_grid(ramp, 16).reshape(4, 4, 3)
    assert torch.allclose(small[..., 2], torch.tensor(3.0)) and torch.equal(small[..., 0], small[..., 1].T)
    assert torch.allclose(small[1:3, 0, 0], torch.tensor([2.5, 4.5])) and torch.equal(on_grid(ramp, 64), ramp)


@pytest.mark.parametrize("changes, words", [
    ({"encoder_options": {"form": "pooled"}}, r"gives \(8, 6\) for 8 images; with feature_width 6 it must be \(8, tokens, 6\)"),
    ({"encoder_options": {"form": "narrow"}}, r"gives \(8, 16, 5\)"),
    ({"encoder_options": {"form": "odd"}}, "the features have 15 tokens; give 16"),
    ({"encoder_options": {"size": 3}}, "with encoder_options .*unexpected keyword argument 'size'"),
    ({"encoder": "nowhere.at_all:encoder"}, "No module named 'nowhere'; name it as package.module:function"),
    ({"encoder": "torch.nn:Nothing"}, "has no attribute 'Nothing'"),
    ({"encoder": "builtins:dict"}, "makes a dict; it must make a torch.nn.Module"),
    ({"encoder_path": "nowhere.pt"}, "encoder_path nowhere.pt does not exist"),
])
def test_an_encoder_that_does_not_fit(setting, here, changes, words):
    made = setting(with_loss({**REPA, **changes}))
    with pytest.raises(UserError, match=words) as caught:
        terms_of(made)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("objective.with repa")


def test_repa_that_has_ended_is_the_baseline(setting, here):
    made = setting(with_loss({**REPA, "stop_images": 64, "encoder": "nowhere:nothing"}), images_seen=64)
    assert set(terms_of(made)) == {"generative"}


ALL = ({"name": "dispersive", "block": 2, "group": 4}, {"name": "contrastive", "group": 4}, {"name": "sra", "block": 3}, {"name": "sra2", "block": 1},
       {**REPA, "block": 4})
REACHED = {"dispersive": 2, "sra": 3, "sra2": 1, "contrastive": 6, "repa": 4}


@pytest.mark.parametrize("name", REACHED)
def test_a_gradient_reaches_the_blocks_before_the_tap_and_its_own_head(setting, here, name):
    made = setting(with_loss(*ALL))
    made.objective.teacher = copy.deepcopy(made.model)
    loss = made.objective(made.model, made.batch, made.draws).losses[name]
    loss.backward()
    reached = {key for key, p in made.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {int(key.split(".")[1]) for key in reached if key.startswith("blocks.")} == set(range(REACHED[name]))
    assert {key.split(".")[1] for key in reached if key.startswith("auxiliary.")} == ({name} if name in made.model.auxiliary else set())
    assert ("final_layer.linear.weight" in reached) == (name == "contrastive")
    assert all(p.grad is None for p in made.objective.teacher.parameters())


def test_several_together_are_each_alone(setting, here):
    together = setting(with_loss(*ALL))
    together.objective.teacher = copy.deepcopy(together.model)
    losses = together.objective(together.model, together.batch, together.draws).losses
    assert list(losses) == ["generative", "dispersive", "contrastive", "sra", "sra2", "repa"]
    for options in ALL:
        alone = setting(with_loss(options))
        alone.model.load_state_dict(together.model.state_dict(), strict=False)
        alone.objective.teacher = copy.deepcopy(alone.model)
        found = alone.objective(alone.model, alone.batch, alone.draws).losses
        assert set(found) == {"generative", options["name"]}
        assert all(torch.equal(value, losses[name]) for name, value in found.items()), options["name"]


def test_micro_batches_add_up_to_the_batch(setting, here):
    whole = setting(with_loss(*ALL), batch=16)
    whole.objective.teacher = copy.deepcopy(whole.model)
    losses = whole.objective(whole.model, whole.batch, whole.draws).losses
    parts = []
    for first in range(0, 16, 4):
        positions = torch.arange(first, first + 4)
        own = whole.batch._replace(images=whole.batch.images[positions], labels=whole.batch.labels[positions])
        parts.append(whole.objective(whole.model, own, randomness.draw(0, positions, whole.objective.streams)).losses)
    for name, loss in losses.items():
        assert torch.stack([part[name] for part in parts]).mean().item() == pytest.approx(loss.item(), rel=1e-5), name
