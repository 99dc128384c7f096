"""MDT's loss: a full and a masked pass at the same levels, each under its own noise and label drops; MDTv2's ratio a step."""

import pytest
import torch

from ditscale.models.masking import keep_lowest
from ditscale.randomness import draw


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("formulation", ["flow", "edm", "ddpm"])
def test_both_passes_by_hand(setting, formulation, shared):
    s = setting({"name": "mdt", "shared_draws": shared}, formulation)
    form, of_masked = s.objective.formulation, "" if shared else " of the masked pass"
    kept = keep_lowest(s.draws["token mask"], 11)                              # 16 (1 - 0.3)
    wanted = []
    for stream, more in (("", {}), (of_masked, {"kept": kept})):
        noise, t = s.draws["noise" + stream], form.level(s.draws["noise level"][:, 0])
        labels = torch.where(s.draws["label drop" + stream][:, 0] < 0.1, 10, s.batch.labels)
        output = s.model(*form.model_inputs(form.add_noise(s.batch.images, noise, t), t), labels, **more)
        wanted.append(sum(term.mean() for term in form.loss(output, s.batch.images, noise, t).values()))
    losses = s.objective(s.model, s.batch, s.draws).losses
    assert wanted[0] != wanted[1]
    for name, value in zip(("full", "masked"), wanted):
        parts = [loss for key, loss in losses.items() if key.startswith(f"generative_{name}")]
        assert torch.allclose(sum(parts), value, rtol=1e-6)


def test_the_masked_pass_draws_anew_and_the_full_pass_as_every_variant(setting):
    own, shared, baseline = setting({"name": "mdt"}), setting({"name": "mdt", "shared_draws": True}), setting({"name": "baseline"})
    assert set(own.draws) - set(shared.draws) == {"noise of the masked pass", "label drop of the masked pass"}
    assert all(torch.equal(own.draws[name], baseline.draws[name]) for name in baseline.draws)
    many = draw(0, torch.arange(4000), {name: own.objective.streams[name] for name in own.draws if "masked pass" in name or
                                        name in ("noise", "label drop")})
    for name in ("noise", "label drop"):                                       # independent of the full pass's
        pair = torch.stack([many[name].flatten(), many[f"{name} of the masked pass"].flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 4 / pair.shape[1]**0.5


def test_the_full_pass_is_the_baselines_loss_of_this_model(setting):
    """One denoiser, two views: the full pass is what sampling calls."""
    s, baseline = setting({"name": "mdt"}), setting({"name": "baseline"})
    assert torch.equal(s.objective(s.model, s.batch, s.draws).losses["generative_full"],
                       baseline.objective(s.model, s.batch, s.draws).losses["generative"])


def test_ratio_is_drawn_by_the_step(setting):
    """Uniform over the range, the same for every micro batch and rank of a step."""
    s = setting({"name": "mdt", "mask_ratio": 0.3, "mask_ratio_max": 0.5})
    ratios = torch.tensor([s.objective.ratio(64 * step) for step in range(500)])
    assert 0.3 <= ratios.min() < 0.31 and 0.49 < ratios.max() < 0.5
    assert abs(ratios.mean() - 0.4) < 4 * 0.2 / 12**0.5 / 500**0.5
    again = setting({"name": "mdt", "mask_ratio": 0.3, "mask_ratio_max": 0.5}, start=32)
    assert [again.objective.ratio(64 * step) for step in range(5)] == [s.objective.ratio(64 * step) for step in range(5)]
