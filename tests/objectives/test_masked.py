"""MaskDiT's loss: visible patches, reconstruction by hand, schedules, and the baseline where nothing is masked."""

import pytest
import torch

from ditscale.models.masking import is_kept, keep_lowest
from ditscale.randomness import draw

FORMULATIONS = ("flow", "edm", "ddpm")


def run(s, **changes):
    return s.objective(s.model, s.batch._replace(**changes), s.draws)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_without_masks_and_decoder_it_is_the_baseline_exactly(setting, formulation):
    masked = setting({"name": "masked", "mask_ratio": 0.0, "decoder_depth": 0}, formulation)
    baseline = setting({"name": "baseline"}, formulation)
    ours, theirs = run(masked).losses, run(baseline).losses
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_the_generative_loss_is_that_of_visible_patches(setting, formulation):
    """Against the elementwise loss under a pixel mask."""
    s = setting({"name": "masked", "reconstruction_weight": 0.0}, formulation)
    noised = s.objective.noised(s.batch, s.draws)
    kept = keep_lowest(s.draws["token mask"], 8)
    output = s.model(*s.objective.formulation.model_inputs(noised.noisy, noised.t), noised.labels, kept=kept)
    visible = is_kept(kept, 16).view(-1, 1, 4, 4).repeat_interleave(2, -1).repeat_interleave(2, -2)
    wanted = sum(term[visible.expand_as(term)].mean()
                 for term in s.objective.formulation.loss(output, s.batch.images, noised.noise, noised.t).values())
    assert torch.allclose(sum(run(s).losses.values()), wanted, rtol=1e-5)


def test_reconstruction_by_hand_under_edm(setting):
    """MAE's target: each noisy patch with mean 0 and variance 1; held against D; masked patches only; weight 0.1."""
    s = setting({"name": "masked"}, "edm")
    noised = s.objective.noised(s.batch, s.draws)
    kept = keep_lowest(s.draws["token mask"], 8)
    edm = s.objective.formulation
    output = s.model(*edm.model_inputs(noised.noisy, noised.t), noised.labels, kept=kept)
    clean = edm.denoised(output, noised.noisy, noised.t)
    total, count = 0.0, 0
    for i in range(8):
        for token in set(range(16)) - set(kept[i].tolist()):
            row, column = 2 * (token // 4), 2 * (token % 4)
            patch, predicted = (x[i, 0, row:row + 2, column:column + 2].flatten() for x in (noised.noisy, clean))
            total += ((predicted - (patch - patch.mean()) / (patch.var() + 1e-6) ** 0.5) ** 2).sum().item()
            count += 4
    assert run(s).losses["reconstruction"].item() == pytest.approx(0.1 * total / count, rel=1e-4)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_reconstruction_is_finite_at_pure_noise(setting, formulation):
    s = setting({"name": "masked"}, formulation)
    s.draws["noise level"].fill_(1 - 2.0**-24)
    assert all(torch.isfinite(term) and term < 100 for term in run(s).losses.values())


def test_unmasking_stage_sees_everything(setting):
    s = setting({"name": "masked", "unmasking_images": 128})
    assert set(run(s, images_seen=448).losses) == {"generative", "reconstruction"}
    assert set(run(s, images_seen=512).losses) == {"generative"}               # of 640
    calls = []
    s.objective(lambda *args, **kwargs: calls.append(kwargs) or s.model(*args, **kwargs), s.batch._replace(images_seen=512), s.draws)
    assert calls == [{}]                                                       # the same call as sampling's


def test_cosine_schedule_masks_less_and_less(setting):
    s = setting({"name": "masked", "mask_schedule": "cosine", "mask_ratio": 0.75})
    kept = []
    model = lambda *args, kept_now=kept, kept: kept_now.append(kept.shape[1]) or s.model(*args, kept=kept)
    for images_seen in (0, 320, 576):
        s.objective(model, s.batch._replace(images_seen=images_seen), s.draws)
    assert kept == [4, 7, 14]                                                  # 16 (1 - 0.75 cos(pi/2 * 0, 0.5, 0.9)), rounded down
    powered = setting({"name": "masked", "mask_schedule": "cosine", "mask_ratio": 0.75, "mask_power": 4.0}).config.objective
    assert [powered.ratio_at(seen, 640) for seen in (0, 320)] == pytest.approx([0.75, 0.75 / 4])  # cos(pi/4)^4 = 1/4


def test_the_same_image_is_masked_the_same_in_any_batch(setting):
    whole, part = setting({"name": "masked"}, batch=8), setting({"name": "masked"}, batch=2, start=4)
    assert torch.equal(whole.draws["token mask"][4:6], part.draws["token mask"])
    assert torch.equal(draw(0, torch.tensor([5]), whole.objective.streams)["token mask"][0], part.draws["token mask"][1])
