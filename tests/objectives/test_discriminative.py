"""SD-DiT's losses: by hand, without leaks, without gradient to the teacher, and watched for collapse."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from ditscale.diffusion.ddpm import Ddpm
from ditscale.diffusion.edm import Edm
from ditscale.diffusion.flow import Flow
from ditscale.models.discriminative import ProjectionHead
from ditscale.models.masking import keep_lowest
from ditscale.objectives.discriminative.assignment import RunningMean, sinkhorn
from ditscale.objectives.discriminative.objective import lower_level


def with_teacher(s):
    s.objective.teacher = copy.deepcopy(s.model).requires_grad_(False)
    with torch.no_grad():
        for parameter in s.objective.teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return s


def run(s, **changes):
    return s.objective(s.model, s.batch._replace(**changes), s.draws)


@pytest.mark.parametrize("formulation", ["flow", "edm", "ddpm"])
def test_cross_entropies_by_hand(setting, formulation):
    s = with_teacher(setting({"name": "discriminative", "patch_weight": 0.5}, formulation))
    s.objective.buffers["center_cls"].normal_(std=0.05)
    noised, form = s.objective.noised(s.batch, s.draws), s.objective.formulation
    kept = keep_lowest(s.draws["token mask"], 12)                              # 16 (1 - 0.2), rounded down
    output, student = s.model(*form.model_inputs(noised.noisy, noised.t), noised.labels, kept=kept, with_logits=True)
    lowest = torch.full_like(noised.t, form.cleanest)
    view = form.add_noise(s.batch.images, noised.noise, lowest)
    encoded, beside = s.objective.teacher.encode(s.objective.teacher.embed(form.model_inputs(view, lowest)[0]),
                                                 s.objective.teacher.condition(form.model_inputs(view, lowest)[1], noised.labels))
    cls = F.softmax((s.objective.teacher.head(beside[:, 0]) - s.objective.buffers["center_cls"]) / 0.04, -1)
    wanted_cls = -(cls * F.log_softmax(student.cls / 0.1, -1)).sum(-1).mean()
    patch = 0.0
    for i in range(8):
        for j, token in enumerate(kept[i]):
            target = F.softmax(s.objective.teacher.head(encoded[i, token]) / 0.04, -1)
            patch += -(target * F.log_softmax(student.patch[i, j] / 0.1, -1)).sum() / (8 * 12)
    losses = run(s).losses
    assert torch.allclose(losses["discriminative_cls"], wanted_cls, rtol=1e-5)
    assert torch.allclose(losses["discriminative_patch"], 0.5 * patch, rtol=1e-5)
    generative = sum(term.mean() for term in form.loss(output, s.batch.images, noised.noise, noised.t).values())
    assert torch.allclose(sum(loss for name, loss in losses.items() if name.startswith("generative")), generative, rtol=1e-6)


def test_switched_off_it_equals_its_generative_part(setting):
    s, off = with_teacher(setting({"name": "discriminative"})), setting({"name": "discriminative", "cls_weight": 0.0, "patch_weight": 0.0})
    off.model.load_state_dict(s.model.state_dict(), strict=False)
    terms = run(off)
    assert not off.objective.has_teacher and off.model.head is None and terms.watched == {}
    assert set(terms.losses) == {"generative"} and torch.equal(terms.losses["generative"], run(s).losses["generative"])


def test_the_teacher_gets_no_gradient_and_the_student_does(setting):
    s = setting({"name": "discriminative"})
    s.objective.teacher = copy.deepcopy(s.model)                               # its parameters would take a gradient if one came
    terms = run(s)
    sum(terms.losses.values()).backward()
    assert all(p.grad is None for p in s.objective.teacher.parameters())
    assert all(p.grad is not None for p in s.model.parameters())
    assert not any(value.requires_grad for value in terms.watched.values())


@pytest.mark.parametrize("detach", [False, True])
def test_the_switch_stops_the_generative_loss_at_the_encoder(setting, detach):
    s = with_teacher(setting({"name": "discriminative", "detach_encoder_for_generation": detach}))
    run(s).losses["generative"].backward()
    reached = {name.split(".")[0] for name, p in s.model.named_parameters() if p.grad is not None}
    decoder = {"decoder_embed", "decoder_blocks", "final_layer", "raw_embed"}
    assert reached == decoder if detach else reached > decoder | {"blocks", "x_embedder", "t_embedder"}


def test_micro_batches_do_not_change_the_center(setting):
    one, two = (with_teacher(setting({"name": "discriminative"})) for _ in range(2))
    two.objective.teacher = one.objective.teacher
    run(one)
    for part in (slice(0, 4), slice(4, 8)):
        two.objective(two.model, two.batch._replace(images=two.batch.images[part], labels=two.batch.labels[part]),
                      {name: draws[part] for name, draws in two.draws.items()})
    for s in (one, two):
        s.objective.after_step(lambda mean: mean)
    for name, center in one.objective.buffers.items():
        assert center.abs().sum() > 0 and torch.allclose(center, two.objective.buffers[name], atol=1e-6)


def test_center_is_the_formula():
    center, state = RunningMean(0.9), torch.full((3,), 2.0)
    center.collect(torch.tensor([[1.0, 2, 3], [3.0, 2, 1]]))
    center.collect(torch.tensor([[5.0, 5, 5]]))
    center.update(state, lambda mean: mean + 1)                                # another rank's share moves the mean
    assert torch.allclose(state, 0.9 * 2 + 0.1 * (torch.tensor([3.0, 3, 3]) + 1))


def test_sinkhorn_uses_every_prototype_alike():
    plan = sinkhorn(torch.randn(400, 10))
    assert torch.allclose(plan.sum(1), torch.ones(400), atol=1e-5)
    assert torch.allclose(plan.sum(0), torch.full((10,), 40.0), rtol=0.02)
    assert torch.isfinite(sinkhorn(torch.randn(16, 8) / 1e-3)).all()


def test_logits_are_cosines():
    head, x = ProjectionHead(16, 32, 8, 20), torch.randn(5, 3, 16)
    logits = head(x)
    wanted = F.cosine_similarity(head.mlp(F.layer_norm(x, (16,), eps=1e-6))[..., None, :], head.prototypes, dim=-1)
    assert logits.shape == (5, 3, 20) and torch.allclose(logits, wanted, atol=1e-6)


LEVELS = [(Flow(), torch.tensor([0.0, 0.3, 1.0]), 0.0), (Edm(), torch.tensor([0.001, 0.3, 80.0]), 0.002),
          (Ddpm(), torch.tensor([0, 300, 999]), 0.0)]


@pytest.mark.parametrize("formulation, t, lowest", LEVELS, ids=["flow", "edm", "ddpm"])
def test_lower_levels(formulation, t, lowest):
    uniform = torch.tensor([0.5, 0.25, 0.75])
    level = {rule: lower_level(formulation, rule, t, uniform, 0.5) for rule in ("sigma_min", "same", "uniform_below", "ratio")}
    assert torch.equal(level["same"], t)
    assert torch.equal(level["sigma_min"], torch.minimum(torch.full_like(t, lowest), t))
    for rule, share in (("uniform_below", uniform), ("ratio", torch.full((3,), 0.5))):
        wanted = torch.minimum((t.double() * share).clamp(min=lowest).to(t.dtype), t)
        assert torch.equal(level[rule], wanted) and level[rule].dtype == t.dtype
    assert all((values <= t).all() for values in level.values())


def test_schedules(setting):
    s = setting({"name": "discriminative", "teacher_momentum": 0.996, "teacher_momentum_schedule": "cosine",
                 "teacher_temperature_ramp": 0.5})
    options = s.config.objective
    assert [options.teacher_temperature_at(seen, 640) for seen in (0, 160, 320, 640)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert [s.objective.teacher_momentum_at(seen) for seen in (0, 320, 640)] == pytest.approx([0.996, 0.998, 1.0])


def test_independent_noise_is_another_noise(setting):
    shared, own = (with_teacher(setting({"name": "discriminative", "teacher_noise": "same", "shared_noise": value})) for value in (True, False))
    own.objective.teacher = shared.objective.teacher
    assert "teacher noise" in own.draws and "teacher noise" not in shared.draws
    assert run(own).losses["generative"] == run(shared).losses["generative"]
    assert run(own).losses["discriminative_patch"] != run(shared).losses["discriminative_patch"]


def test_collapse_is_called_by_its_name(setting):
    s = with_teacher(setting({"name": "discriminative"}, images_seen=320))
    healthy = {name: value.item() for name, value in run(s).watched.items()}
    assert s.objective.warning(healthy) == ""
    with torch.no_grad():
        s.objective.teacher.head.mlp[4].weight.zero_()                         # every token gets the same direction: one prototype
        s.objective.teacher.head.mlp[4].bias.copy_(s.objective.teacher.head.prototypes[3])
    s.objective.options = s.objective.options.model_copy(update={"teacher_temperature": 0.01, "teacher_temperature_start": 0.01})
    for _ in range(100):                                                       # as if the center did not follow
        run(s)
        s.objective.means["center_cls"].momentum = s.objective.means["center_patch"].momentum = 1.0
        s.objective.after_step(lambda mean: mean)
    collapsed = {name: value.item() for name, value in run(s).watched.items()}
    assert collapsed["prototype_usage_cls"] < 0.05
    assert "are all on one prototype" in s.objective.warning(collapsed) and "320 images" in s.objective.warning(collapsed)
    s.objective.means["center_cls"].momentum = s.objective.means["center_patch"].momentum = 0.9
    for _ in range(300):                                                       # the center follows: now all prototypes alike
        run(s)
        s.objective.after_step(lambda mean: mean)
    uniform = {name: value.item() for name, value in run(s).watched.items()}
    assert uniform["teacher_entropy_cls"] == pytest.approx(1.0, abs=1e-3)
    assert "uniform over the prototypes" in s.objective.warning(uniform)
    run(s, images_seen=0)
    assert s.objective.warning(uniform) == ""                                  # too early to say


def test_watched_values_by_hand(setting):
    s = with_teacher(setting({"name": "discriminative", "cls_weight": 0.0}))
    watched, loss = run(s).watched, run(s).losses["discriminative_patch"]
    assert set(watched) == {"teacher_entropy_patch", "prototype_usage_patch", "kl_patch", "center_norm_patch"}
    own = watched["teacher_entropy_patch"] * math.log(s.objective.prototypes)
    assert torch.allclose(watched["kl_patch"] + own, loss, rtol=1e-5) and watched["kl_patch"] > 0
