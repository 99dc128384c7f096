"""SPRINT: both paths and their fusion by hand, images without the sparse path, stages, and what sampling sees."""

import pytest
import torch

from ditscale.config import resolve
from ditscale.errors import UserError
from ditscale.models.blocks import DESIGNS
from ditscale.models.sizes import SIZES
from ditscale.objectives import VARIANTS

SPRINT = {"name": "sprint"}


def by_hand(model, x, t, y, kept, dropped, first, last):
    """Image by image in fp64: f over all tokens, g over the kept ones, W [f; g] with the mask token in the other places."""
    condition, images, count = model.condition(t, y), [], model.grid**2
    for i in range(len(x)):
        c = condition.c[i:i + 1]
        extra = 0 if condition.tokens is None else 2
        f = torch.cat([model.embed(x[i:i + 1])[0], *([condition.tokens[i]] if extra else [])])
        for block in model.blocks[:first]:
            f = block(f[None], c)[0]
        places = [*sorted(kept[i].tolist()), *range(count, count + extra)]
        inner = f[places]
        for block in list(model.blocks)[first:len(model.blocks) - last]:
            inner = block(inner[None], c)[0]
        g = model.mask_token[0].repeat(count + extra, 1).clone()
        if not dropped[i]:
            g[places] = inner
        weight, bias, width = model.fuse.weight, model.fuse.bias, f.shape[1]
        h = f @ weight[:, :width].T + g @ weight[:, width:].T + bias
        for block in list(model.blocks)[len(model.blocks) - last:]:
            h = block(h[None], c)[0]
        images.append(model.to_image(h[None, :count], c))
    return torch.cat(images)


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("options", [{"path_drop": 0.5}, {"mask_ratio": 0.5, "encoder_depth": 3, "decoder_depth": 2}], ids=["drops", "depths"])
def test_the_loss_is_that_of_both_paths_by_hand(setting, values, block, options):
    values["model"]["block"] = block
    s = setting({**SPRINT, **options}, batch=4)
    model = s.model.double()
    noised = s.objective.noised(s.batch, s.draws)
    kept = s.draws["token mask"].argsort(dim=1)[:, :16 - round(16 * options.get("mask_ratio", 0.75))]
    dropped = s.draws["path drop"][:, 0] < options.get("path_drop", 0.05)
    assert 0 < dropped.sum() < 4 if "path_drop" in options else not dropped.any()
    x, t = s.objective.formulation.model_inputs(noised.noisy, noised.t)
    output = by_hand(model, x.double(), t, noised.labels, kept, dropped, options.get("encoder_depth", 1), options.get("decoder_depth", 1))
    wanted = ((output - (noised.noise - s.batch.images)) ** 2).mean()
    routed = model(x.double(), t, noised.labels, kept=kept.sort(dim=1).values, dropped=dropped)
    assert torch.allclose(routed, output, rtol=0, atol=1e-12)
    found = s.objective(model, s.batch, s.draws).losses
    assert found.keys() == {"generative"} and found["generative"].item() == pytest.approx(wanted.item(), rel=1e-6)


def test_sampling_is_both_paths_over_all_tokens(setting):
    s = setting(SPRINT, batch=3)
    model, everything = s.model.double(), torch.arange(16).expand(3, -1)
    x, t, y = torch.randn(3, 1, 8, 8).double(), torch.tensor([3.0, 500.0, 900.0]), torch.tensor([1, 2, 10])
    wanted = by_hand(model, x, t, y, everything, torch.zeros(3, dtype=torch.bool), 1, 1)
    assert torch.allclose(model(x, t, y), wanted, rtol=1e-9)


def test_an_image_without_the_sparse_path_does_not_know_its_middle_blocks(setting):
    s = setting({**SPRINT, "path_drop": 0.5}, batch=4)
    noised, dropped = s.objective.noised(s.batch, s.draws), torch.tensor([True, False, True, False])
    outputs = []
    for _ in range(2):
        outputs.append(s.model(*s.objective.formulation.model_inputs(noised.noisy, noised.t), noised.labels, dropped=dropped))
        for parameter in s.model.blocks[2].parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    assert torch.equal(outputs[0][dropped], outputs[1][dropped]) and not torch.allclose(outputs[0][~dropped], outputs[1][~dropped], atol=1e-3)


def test_the_last_stage_sees_all_tokens_and_still_drops_paths(setting):
    s = setting({**SPRINT, "unmasking_images": 128})
    calls = []
    for seen in (448, 512):                                                    # of 640
        s.objective(lambda *args, **more: calls.append(set(more)) or s.model(*args, **more), s.batch._replace(images_seen=seen), s.draws)
    assert calls == [{"kept", "dropped"}, {"dropped"}]
    options = s.config.objective
    assert [options.kept_at(16, seen, 640) for seen in (0, 511, 512)] == [4, 4, 16]
    assert [options.stage_lr(0.4, seen, 640) for seen in (511, 512)] == [None, 0.2]


def test_nothing_left_out_is_the_sampling_pass(setting):
    s = setting({**SPRINT, "mask_ratio": 0.0, "path_drop": 0.0})
    assert s.model.mask_token is None and s.objective.streams.keys() == {"noise", "noise level", "label drop"}
    calls = []
    s.objective(lambda *args, **more: calls.append(more) or s.model(*args, **more), s.batch, s.draws)
    assert calls == [{}]


def test_depths_of_every_size():
    found = {name: VARIANTS["sprint"](name="sprint").depths(size) for name, size in SIZES.items()}
    assert found["XL"] == (2, 24, 2) and found["B"] == (2, 8, 2) and found["nano"] == (1, 4, 1) and found["atto"] == (1, 2, 1)


@pytest.mark.parametrize("name, options, words", [
    ("DiT-2x64/2", {}, "objective.name sprint needs 3 blocks, first, middle and last ones, and the model has 2"),
    ("DiT-nano/2", {"encoder_depth": 4, "decoder_depth": 2}, "encoder_depth 4 and decoder_depth 2 leave no middle: the model has 6 blocks; together at most 5"),
    ("DiT-nano/8", {}, "objective.mask_ratio 0.75 masks none of the model's 1 token"),
    ("DiT-nano/2", {"unmasking_images": 1000}, "objective.unmasking_images 1000 is more than train.images 640"),
    ("DiT-nano/2", {"unmasking_lr": 1e-4}, "objective.unmasking_lr 0.0001 has no effect without objective.unmasking_images"),
    ("DiT-nano/2", {"path_drop": 1.0}, "less than 1"),
])
def test_refused(values, name, options, words):
    values["objective"], values["model"]["name"] = {**SPRINT, **options}, name
    with pytest.raises(UserError, match=words):
        resolve(values, "test")
