"""Where the compute goes: the parts sum to the totals, and each is what the model's structure says."""

import itertools

import pytest

from ditscale.config import resolve
from ditscale.cost.runs import run_card, sampling_flops, training_flops
from ditscale.cost.shares import cost_shares

OBJECTIVES = ({"name": "baseline"}, {"name": "masked"}, {"name": "masked", "mask_schedule": "cosine", "unmasking_images": 128},
              {"name": "masked", "mask_ratio": 0.0, "decoder_depth": 0}, {"name": "mdt"}, {"name": "mdt", "long_skips": True},
              {"name": "mdt", "mask_ratio_max": 0.5}, {"name": "discriminative"},
              {"name": "discriminative", "cls_weight": 0.0, "patch_weight": 0.0}, {"name": "tread"},
              {"name": "sprint"}, {"name": "sprint", "unmasking_images": 128})


def config_of(values, objective, block="adaln_zero"):
    return resolve({**values, "objective": objective, "model": {"name": "DiT-femto/2", "block": block}}, "test")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("block", ["adaln_zero", "in_context"])
def test_parts_sum_to_the_totals_to_the_last_flop(values, objective, block):
    config = config_of(values, objective, block)
    for images, evaluations in itertools.product((0, 64, 333, 640), (0, 3)):
        shares = cost_shares(config, images, evaluations)
        assert shares.training == training_flops(config, images)
        assert shares.evaluation == evaluations * 64 * sampling_flops(config)
        assert shares.total == shares.training + shares.evaluation
        assert min(vars(shares).values()) >= 0
        assert sum(shares.fractions().values()) == pytest.approx(1.0 if shares.total else 0.0)


def test_who_has_what(values):
    shares = {o["name"]: cost_shares(config_of(values, o), 640) for o in reversed(OBJECTIVES[:8])}
    assert shares["baseline"].decoder == shares["baseline"].teacher == 0 < shares["baseline"].heads
    assert shares["masked"].teacher == shares["mdt"].teacher == 0 < shares["masked"].decoder
    assert shares["discriminative"].teacher > 0


def test_the_teachers_part_and_an_added_decoders(values):
    config = config_of(values, {"name": "discriminative"})
    card, shares = run_card(config), cost_shares(config, 640)
    assert shares.teacher == 640 * 2 * sum(card.forward_only_macs_by_part.values())
    assert shares.heads == 640 * 6 * (card.trained_macs_by_part["head"] + card.trained_macs_by_part["projection_head"])
    assert shares.decoder == 640 * 6 * sum(card.trained_macs_by_part[part] for part in ("decoder_embed", "decoder", "raw_embed"))


def test_mdts_decoder_is_its_last_blocks_twice_and_the_side_block(values):
    """Its blocks pass all tokens in both forwards of a step, and one costs what the side block does."""
    for depth in (1, 2, 3):
        config = config_of(values, {"name": "mdt", "decoder_depth": depth})
        side = 640 * 6 * run_card(config).trained_macs_by_part["side_block"]
        assert cost_shares(config, 640).decoder == (2 * depth + 1) * side


def test_no_evaluation_in_the_config(values):
    config = resolve({**values, "evaluation": None}, "test")
    assert cost_shares(config, 640).evaluation == 0
