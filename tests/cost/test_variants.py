"""The variants' closed forms: published ratios, PyTorch's own counter on real training steps, totals by brute force."""

import itertools
from collections import Counter

import pytest
import torch

from ditscale.config import resolve
from ditscale.cost.runs import run_card, training_flops
from ditscale.models.blocks import DESIGNS
from ditscale.models.dit import create_model
from ditscale.models.macs import FREQUENCIES, make_backbone
from ditscale.models.sizes import parse_model_name
from ditscale.objectives import VARIANTS
from ditscale.objectives.from_config import build_model
from ditscale.objectives.variant import kept_tokens

SIZES = ("S/2", "B/2", "L/2", "XL/2")
IMAGES = 3                                                                     # of a counted step


def published(name, variant, **options):
    """At 32 x 32 x 4 and 1000 classes; masked and discriminative as their papers have them, edm without a learned variance."""
    backbone = make_backbone(parse_model_name(f"DiT-{name}"), resolution=32, channels=4, classes=1000,
                             learn_sigma=variant not in ("masked", "discriminative"))
    return VARIANTS[variant](name=variant, **options).card(backbone)


def to_baseline(name, variant, **options):
    return published(name, variant, **options).train_flops_per_image / published(name, "baseline").train_flops_per_image


# Computed from the official code's structure, papers.md 2.5; for SD-DiT without head, [CLS] and raw embeddings.
RATIOS = {"masked": (1.63, 0.79, 0.58, 0.55), "mdt": (1.81, 1.82, 1.76, 1.75)}
WITHOUT_HEAD = (2.27, 1.43, 1.21, 1.18)


@pytest.mark.parametrize("variant", RATIOS)
def test_ratios_to_the_baseline(variant):
    assert [to_baseline(name, variant) for name in SIZES] == pytest.approx(RATIOS[variant], rel=0.015)


def test_ratios_of_the_discriminative_variant():
    """With the default head, which is ours, it is pinned: the head takes 13 % of S's training and 2 % of XL's."""
    without = []
    for name in SIZES:
        card = published(name, "discriminative")
        head = card.trained_macs_by_part["projection_head"]
        assert head == card.forward_only_macs_by_part["projection_head"]
        without.append((card.train_macs_per_image - 4 * head) / published(name, "baseline").train_macs_per_image)
    assert without == pytest.approx(WITHOUT_HEAD, rel=0.015)
    assert [round(to_baseline(name, "discriminative"), 4) for name in SIZES] == [2.6254, 1.5356, 1.2481, 1.2116]


def test_golden_training_macs():
    """Pinned to the last multiply-add."""
    assert {(name, variant): published(name, variant).train_macs_per_image for name, variant in GOLDEN} == GOLDEN


def test_maskdit_xl_has_730_million_parameters():
    """Trained ones, the mask token among them; the two fixed position tables, 256 x (1152 + 512), are not counted."""
    card = published("XL/2", "masked")
    assert card.parameters == 730_116_368 and card.parameters - card.inference_parameters == 512


def config_of(values, objective, name="DiT-femto/2", block="adaln_zero", **train):
    values["objective"], values["model"] = objective, {"name": name, "block": block}
    values["train"] |= train
    return resolve(values, "test")


CASES = ({"name": "baseline"}, {"name": "masked"}, {"name": "masked", "mask_ratio": 0.0}, {"name": "masked", "mask_token": "zero"},
         {"name": "mdt"},
         {"name": "mdt", "long_skips": True}, {"name": "mdt", "long_skips": True, "decoder_depth": 1, "mask_ratio": 0.6},
         {"name": "discriminative"}, {"name": "discriminative", "cls_weight": 0.0}, {"name": "discriminative", "patch_weight": 0.0},
         {"name": "discriminative", "mask_ratio": 0.0}, {"name": "discriminative", "cls_weight": 0.0, "patch_weight": 0.0},
         {"name": "tread"}, {"name": "tread", "ratio": 0.75, "start": 0, "end": 1}, {"name": "sprint"},
         {"name": "sprint", "mask_ratio": 0.0, "path_drop": 0.0, "encoder_depth": 2})


STEPS = [("DiT-femto/2", case) for case in CASES] + [("DiT-nano/2", CASES[i]) for i in (1, 4, 6, 12, 14)]


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("name, objective", STEPS, ids=lambda o: o if isinstance(o, str) else "-".join(map(str, o.values())))
def test_a_real_training_step(values, objective, name, block, counted_flops, real_step):
    """Exactly so but for the two inputs of each trained pass, patches and sinusoid: they need no gradient, and cost 2 and not 3."""
    config = config_of(values, objective, name, block)
    card, passes = run_card(config), 2 if objective["name"] == "mdt" else 1
    width = parse_model_name(name).dims.hidden_size
    inputs = passes * FREQUENCIES * width + card.trained_macs_by_part["patchify"]
    assert counted_flops(real_step(config, IMAGES)) == IMAGES * (card.train_flops_per_image - 2 * inputs)


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("objective", CASES, ids=lambda o: "-".join(map(str, o.values())))
def test_real_inference_and_parameters(values, objective, block, counted_flops):
    config = config_of(values, objective, "DiT-nano/2", block)
    model, card = build_model(config), run_card(config)
    with torch.no_grad():
        flops = counted_flops(lambda: model(torch.zeros(IMAGES, 1, 8, 8), torch.zeros(IMAGES), torch.zeros(IMAGES, dtype=torch.long)))
    assert flops == IMAGES * card.flops
    assert sum(p.numel() for p in model.parameters()) == card.parameters
    unused = [p.numel() for key, p in model.named_parameters() if key.startswith(getattr(model, "training_only", ()))]
    assert card.inference_parameters == card.parameters - sum(unused)


@pytest.mark.parametrize("name", ["masked", "mdt", "discriminative", "tread", "sprint"])
def test_parameters_with_qk_norm_on_the_largest(values, name):
    values["data"] |= {"resolution": 32, "channels": 4, "classes": 1000}
    for block, (size, formulation) in itertools.product(DESIGNS, (("XL/2", "ddpm"), ("S/8", "edm"))):
        values |= {"objective": {"name": name}, "formulation": {"name": formulation}, "evaluation": None,
                   "model": {"name": f"DiT-{size}", "block": block, "qk_norm": True}}
        config = resolve(values, "test")
        with torch.device("meta"):
            model = build_model(config)
        assert sum(p.numel() for p in model.parameters()) == run_card(config).parameters


SWITCHES = {"norm": "rms", "mlp": "swiglu", "positions": "rope", "value_residual": True, "patch_bottleneck": 3, "qk_norm": True}
SWITCHED = [(objective, name, {key: SWITCHES[key] for key in keys})
            for objective, refused in (("baseline", ()), ("masked", ()), ("discriminative", ()), ("mdt", ("positions", "value_residual")))
            for name in ("DiT-femto/2", "DiT-nano/2") for keys in [[key for key in SWITCHES if key not in refused]]]


@pytest.mark.parametrize("block", DESIGNS)
@pytest.mark.parametrize("objective, name, switches", SWITCHED, ids=lambda one: one if isinstance(one, str) else "")
def test_switched_backbones(values, objective, name, switches, block, counted_flops, real_step):
    """A training step, inference and parameters with all switches that the variant allows, against PyTorch."""
    values["objective"], values["model"] = {"name": objective}, {"name": name, "block": block, **switches}
    config = resolve(values, "test")
    card, passes, width = run_card(config), 2 if objective == "mdt" else 1, parse_model_name(name).dims.hidden_size
    patch, bottleneck, tokens = 4, 3, 16
    inputs = passes * (FREQUENCIES * width + tokens * patch * bottleneck)      # without a gradient
    assert counted_flops(real_step(config, IMAGES)) == IMAGES * (card.train_flops_per_image - 2 * inputs)
    model = build_model(config)
    with torch.no_grad():
        flops = counted_flops(lambda: model(torch.zeros(IMAGES, 1, 8, 8), torch.zeros(IMAGES), torch.zeros(IMAGES, dtype=torch.long)))
    assert flops == IMAGES * card.flops and sum(p.numel() for p in model.parameters()) == card.parameters


@pytest.mark.parametrize("switches", [{name: value} for name, value in SWITCHES.items()] + [{"positions": "sincos_rope"}], ids=str)
def test_parameters_of_one_switch_on_xl_2(switches):
    with torch.device("meta"):
        model = create_model("DiT-XL/2", input_size=32, in_channels=4, block="cross_attention", **switches)
    backbone = make_backbone(parse_model_name("DiT-XL/2"), resolution=32, channels=4, classes=1000, block="cross_attention", **switches)
    assert sum(p.numel() for p in model.parameters()) == VARIANTS["baseline"](name="baseline").card(backbone).parameters


def test_nothing_masked_and_no_decoder_is_the_baseline(values):
    plain = run_card(config_of(values, {"name": "baseline"}))
    assert run_card(config_of(values, {"name": "masked", "mask_ratio": 0.0, "decoder_depth": 0})) == plain


def test_one_token(values):
    """Nothing of it can be masked: the encoder trains on what it samples with."""
    masked = run_card(config_of(values, {"name": "masked", "mask_ratio": 0.0}, "DiT-atto/8"))
    assert masked.tokens == 1 and masked.trained_macs_by_part == masked.macs_by_part
    compared = run_card(config_of(values, {"name": "discriminative", "mask_ratio": 0.0}, "DiT-atto/8"))
    head = compared.trained_macs_by_part["projection_head"]
    assert compared.trained_macs_by_part == {**compared.macs_by_part, "projection_head": head} and head % 2 == 0  # [CLS] and it


SCHEDULES = ({"mask_schedule": "constant"}, {"mask_schedule": "cosine"}, {"mask_schedule": "cosine", "mask_ratio": 0.9},
             {"mask_schedule": "constant", "unmasking_images": 1000}, {"mask_schedule": "cosine", "unmasking_images": 6000},
             {"mask_ratio": 0.75, "unmasking_images": 6464})


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda o: "-".join(map(str, o.values())))
def test_totals_step_by_step(values, options):
    """The closed total against one card a step, at every step; the last images, less than a batch, are not trained on."""
    config = config_of(values, {"name": "masked", **options}, images=6464 + 30)
    total, batch = 0, config.train.global_batch
    assert training_flops(config, 0) == 0
    for seen in range(0, config.train.images - batch + 1, batch):
        backbone = make_backbone(parse_model_name("DiT-femto/2"), resolution=8, channels=1, classes=10, learn_sigma=False)
        kept = kept_tokens(16, config.objective.ratio_at(seen, config.train.images))
        total += batch * config.objective.card(backbone, kept).train_flops_per_image
        assert training_flops(config, seen + batch) == total
    assert training_flops(config, config.train.images) == total


def test_the_unmasking_stage_costs_a_whole_forward(values):
    config = config_of(values, {"name": "masked", "unmasking_images": 3200}, images=6400)
    masked = run_card(config)
    assert training_flops(config, 3200) == 3200 * masked.train_flops_per_image
    assert training_flops(config, 6400) == 3200 * masked.train_flops_per_image + 3200 * 3 * masked.flops


def test_routed_variants_by_hand(values):
    """adaLN-Zero blocks of 768 over T tokens: 12 T 768^2 + 2 T^2 768, and 6 768^2 for the image. TREAD: 7 of 12 see half; SPRINT: 8 see a quarter."""
    block = lambda tokens: 12 * tokens * 768**2 + 2 * tokens**2 * 768 + 6 * 768**2
    plain, tread, sprint = (published("B/2", name) for name in ("baseline", "tread", "sprint"))
    fuse = 2 * 768**2 * 256
    assert plain.macs - sum(tread.trained_macs_by_part.values()) == 7 * (block(256) - block(128))
    assert plain.macs + fuse - sum(sprint.trained_macs_by_part.values()) == 8 * (block(256) - block(64))
    assert tread.macs == plain.macs == sprint.macs - fuse and tread.parameters == plain.parameters
    assert sprint.inference_parameters - plain.parameters == 768 * (2 * 768 + 1) == sprint.parameters - 768 - plain.parameters
    config = config_of(values, {"name": "sprint", "unmasking_images": 3200}, images=6400)
    sparse = run_card(config)
    assert training_flops(config, 6400) == 3200 * sparse.train_flops_per_image + 3200 * 3 * sparse.flops


def test_other_variants_cost_the_same_at_every_step(values):
    for objective in ({"name": "baseline"}, {"name": "mdt", "mask_ratio_max": 0.5}, {"name": "discriminative"}, {"name": "tread"}):
        config = config_of(values, objective)
        assert training_flops(config, 640) == 640 * run_card(config).train_flops_per_image


def test_ten_million_steps_cost_no_time(values):
    """The largest grid of a cosine schedule: 256 tokens, 128 groups of steps."""
    values["data"] |= {"resolution": 32, "channels": 4}
    config = config_of(values, {"name": "masked", "mask_schedule": "cosine"}, "DiT-XL/2", images=256 * 10**7, global_batch=256)
    whole, half = training_flops(config, config.train.images), training_flops(config, config.train.images // 2)
    assert half < whole - half                                                 # more and more tokens are seen
    assert config.train.images * run_card(config).train_flops_per_image < whole < config.train.images * 3 * run_card(config).flops


@pytest.mark.parametrize("tokens, low, high", [(256, 0.3, 0.5), (16, 0.3, 0.5), (16, 0.05, 0.99), (4, 0.3, 0.31), (4, 0.6, 0.9)])
def test_expected_tokens_of_a_drawn_ratio(tokens, low, high):
    objective = VARIANTS["mdt"](name="mdt", mask_ratio=low, mask_ratio_max=high)
    draws = 200_000
    counts = Counter(kept_tokens(tokens, low + (high - low) * (i + 0.5) / draws) for i in range(draws))
    shares = objective.kept_shares(tokens)
    assert sum(shares.values()) == pytest.approx(1)
    assert {kept: share for kept, share in shares.items() if share > 1e-9} == pytest.approx(
        {kept: count / draws for kept, count in counts.items()}, abs=2 / draws)


@pytest.mark.parametrize("block", DESIGNS)
def test_expected_compute_of_a_drawn_ratio(values, block):
    """The mean over many drawn ratios, each counted as a fixed one."""
    drawn = run_card(config_of(values, {"name": "mdt", "mask_ratio": 0.3, "mask_ratio_max": 0.5, "long_skips": True}, block=block))
    ratios = [0.3 + 0.2 * (i + 0.5) / 1000 for i in range(1000)]
    fixed = [run_card(config_of(values, {"name": "mdt", "mask_ratio": ratio, "long_skips": True}, block=block)) for ratio in ratios]
    assert drawn.train_flops_per_image == pytest.approx(sum(card.train_flops_per_image for card in fixed) / 1000, rel=1e-4)
    assert drawn.macs == fixed[0].macs and drawn.parameters == fixed[0].parameters


GOLDEN = {("S/2", "masked"): 29694148608, ("B/2", "masked"): 54817849344, ("L/2", "masked"): 140080054272,
          ("XL/2", "masked"): 196354228224,
          ("S/2", "mdt"): 32987441664, ("B/2", "mdt"): 125885666304, ("L/2", "mdt"): 425797128192, ("XL/2", "mdt"): 622769499648,
          ("S/2", "discriminative"): 47695523840, ("B/2", "discriminative"): 105977274368, ("L/2", "discriminative"): 302144880640,
          ("XL/2", "discriminative"): 431159545856,
          ("S/2", "tread"): 12617957376, ("B/2", "tread"): 48404496384, ("L/2", "tread"): 144550133760, ("XL/2", "tread"): 207398486016,
          ("S/2", "sprint"): 9107324928, ("B/2", "sprint"): 35041443840, ("L/2", "sprint"): 91198586880, ("XL/2", "sprint"): 127559909376}
