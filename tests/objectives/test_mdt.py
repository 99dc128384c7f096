"""MDT's loss: a full and a masked pass over the same noise, and MDTv2's ratio a step."""

import pytest
import torch

from ditscale.models.masking import keep_lowest


@pytest.mark.parametrize("formulation", ["flow", "edm", "ddpm"])
def test_both_passes_by_hand(setting, formulation):
    s = setting({"name": "mdt"}, formulation)
    noised, form = s.objective.noised(s.batch, s.draws), s.objective.formulation
    inputs = (*form.model_inputs(noised.noisy, noised.t), noised.labels)
    kept = keep_lowest(s.draws["token mask"], 11)                              # 16 (1 - 0.3)
    wanted = [sum(term.mean() for term in form.loss(s.model(*inputs, **more), s.batch.images, noised.noise, noised.t).values())
              for more in ({}, {"kept": kept})]
    losses = s.objective(s.model, s.batch, s.draws).losses
    assert wanted[0] != wanted[1]
    for name, value in zip(("full", "masked"), wanted):
        parts = [loss for key, loss in losses.items() if key.startswith(f"generative_{name}")]
        assert torch.allclose(sum(parts), value, rtol=1e-6)


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
