"""The micro batch that fits, by the memory model."""

import pytest

from ditscale.cost.memory import GIB
from ditscale.cost.runs import run_memory_card
from ditscale.errors import UserError
from ditscale.training.fit import fit_micro_batch, largest_that_fits

pytestmark = pytest.mark.usefixtures("in_repository")

XL = {"model.name": "DiT-XL/2", "data.resolution": 32, "data.channels": 4, "data.classes": 1000, "train.global_batch": 256,
      "train.images": 25600, "train.checkpoint_every_images": 25600, "evaluation": None}


@pytest.mark.parametrize("objective", ["baseline", "masked", "discriminative", "sprint"])
def test_the_largest_divisor_within_the_limit(make_run, objective):
    config, _ = make_run(changes={**XL, "objective": {"name": objective}})
    needed = {images: run_memory_card(config, stage=1, offload=False, micro_batch=images).accelerator for images in (1, 16, 32, 256)}
    for images in (1, 16, 256):
        assert largest_that_fits(config, needed[images]) == images
    assert largest_that_fits(config, needed[32] - 1) == 16


def test_ranks_stages_and_recomputing_leave_room_for_more(make_run):
    def fits(**resources):
        config, _ = make_run(changes={**XL, **{f"resources.{name}": value for name, value in resources.items()}})
        return largest_that_fits(config, int(24 * GIB))
    alone = fits()
    assert fits(accelerators_per_run=8) > alone
    assert fits(checkpoint_activations=True) > alone
    assert fits(accelerators_per_run=8, deepspeed="ds_configs/zero3.json") >= fits(accelerators_per_run=8)


def test_auto_is_settled_and_trains(make_run, world):
    config, _ = make_run(changes={"resources.micro_batch": "auto"})
    settled = fit_micro_batch(config, world)
    assert settled.resources.micro_batch == settled.micro_batch == 64 and settled.science_hash() == config.science_hash()


def test_nothing_fits(make_run):
    config, _ = make_run(changes=XL)
    with pytest.raises(UserError, match="one image at a time needs 1.* GiB on each of 1 rank.* at ZeRO stage 1, and 2.00 GiB"):
        largest_that_fits(config, 2 * GIB)


@pytest.mark.parametrize("value, words", [(0, "resources.micro_batch is 0; give a number of images, or auto"), ("some", "micro_batch"),
                                          (48, "does not divide the 64 images")])
def test_wrong_values(make_run, value, words):
    with pytest.raises(UserError, match=words):
        make_run(changes={"resources.micro_batch": value})


@pytest.mark.parametrize("objective", ["baseline", "masked", "mdt", "discriminative", "tread", "sprint"])
def test_activations_of_the_variants_are_near_what_autograd_keeps(make_run, objective):
    """One micro batch of a real step in fp32; near, as the model scales the plain DiT's by MACs."""
    import torch

    from ditscale import randomness
    from ditscale.objectives.from_config import build_model, make_objective
    from ditscale.objectives.objective import CleanBatch

    config, _ = make_run(changes={"model.name": "DiT-tiny/2", "data.resolution": 16, "train.precision": "fp32",
                                  "objective": {"name": objective}, "evaluation": None})
    model, loss, held = build_model(config), make_objective(config), {}
    loss.teacher = build_model(config).requires_grad_(False)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)                 # the tensor keeps the address taken
        return tensor
    draws = randomness.draw(0, torch.arange(8), loss.streams)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(model, CleanBatch(torch.randn(8, 1, 16, 16), torch.zeros(8, dtype=torch.long)), draws)
    kept = sum(size for size, _ in held.values())
    card = run_memory_card(config, stage=1, offload=False, micro_batch=8)
    assert card.activations == pytest.approx(kept, rel=0.02 if objective == "baseline" else 0.25)
