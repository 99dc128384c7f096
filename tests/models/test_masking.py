"""Token bookkeeping: nothing lost, nothing moved, exactly the ratio."""

import pytest
import torch

from ditscale.models.masking import gather, is_kept, keep_lowest, masked_indices, scatter
from ditscale.objectives.variant import kept_tokens
from ditscale.randomness import Uniform, draw


@pytest.mark.parametrize("tokens, keep", [(16, 8), (16, 1), (16, 16), (256, 204), (1, 1)])
def test_every_token_is_either_kept_or_masked(tokens, keep):
    kept = keep_lowest(torch.rand(5, tokens), keep)
    masked = masked_indices(kept, tokens)
    assert kept.shape == (5, keep) and masked.shape == (5, tokens - keep)
    assert torch.equal(torch.cat([kept, masked], dim=1).sort(dim=1).values, torch.arange(tokens).expand(5, -1))
    assert torch.equal(kept, kept.sort(dim=1).values) and torch.equal(masked, masked.sort(dim=1).values)
    assert torch.equal(is_kept(kept, tokens).sum(1), torch.full((5,), keep))


def test_gather_and_scatter_invert():
    x, kept = torch.randn(4, 16, 3), keep_lowest(torch.rand(4, 16), 6)
    masked = masked_indices(kept, 16)
    back = scatter(gather(x, masked), masked, scatter(gather(x, kept), kept, torch.zeros(4, 16, 3)))
    assert torch.equal(back, x)
    assert torch.equal(gather(scatter(torch.ones(4, 6, 3), kept, x), masked), gather(x, masked))


def test_ties_do_not_change_the_count():
    assert torch.equal(keep_lowest(torch.zeros(2, 8), 3), torch.tensor([[0, 1, 2]] * 2))


@pytest.mark.parametrize("tokens, ratio, keep", [(256, 0.5, 128), (256, 0.3, 179), (256, 0.2, 204), (16, 0.3, 11), (10, 0.9, 1),
                                                 (4, 0.99, 1), (1, 0.0, 1), (256, 0.0, 256), (10, 0.7, 3)])
def test_kept_tokens(tokens, ratio, keep):
    """``int(T (1 - ratio))`` as the released codes count, but for what float rounding loses (10 x 0.1 is 1, not 0.99)."""
    assert kept_tokens(tokens, ratio) == keep


def test_masks_belong_to_the_image_and_not_to_the_batch():
    """The same image keeps the same tokens whatever the batch or rank; different images keep different ones, evenly."""
    whole = draw(0, torch.arange(4000), {"token mask": Uniform(16)})["token mask"]
    part = draw(0, torch.arange(1000, 1003), {"token mask": Uniform(16)})["token mask"]
    kept = keep_lowest(whole, 8)
    assert torch.equal(kept[1000:1003], keep_lowest(part, 8))
    assert len(kept.unique(dim=0)) > 3000                                      # of 12,870 possible choices
    share = is_kept(kept, 16).float().mean(0)
    assert (share - 0.5).abs().max() < 4 * (0.25 / 4000) ** 0.5
