"""The Inception Score (Salimans et al. 2016): ``exp(mean KL(p(y|x) || p(y)))``, over splits of the shuffled images.

Without shuffling, class-sorted images score far too low, as a split then has few classes.
"""

import numpy as np

from ditscale.errors import UserError
from ditscale.evaluation.metrics.moments import BLOCK


def inception_score(logits: np.ndarray, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over the splits, from logits (N, classes), which may be a memory map.

    Raises:
        UserError: there are fewer images than splits.
    """
    count = len(logits)
    if count < splits:
        raise UserError(f"the Inception Score needs at least {splits} images, one per split; there are {count}")
    order = np.random.default_rng(seed).permutation(count)
    scores = [_score(logits, order[count * split // splits:count * (split + 1) // splits]) for split in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: np.ndarray, rows: np.ndarray) -> float:
    """The score of some rows: ``mean sum p log p - sum q log q``, with q the mean of p."""
    rows = np.sort(rows)
    negative_entropy, marginal = 0.0, np.zeros(logits.shape[1])
    for first in range(0, len(rows), BLOCK):
        log_p = logits[rows[first:first + BLOCK]].astype(np.float64)
        log_p -= log_p.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        negative_entropy += (p * log_p).sum()
        marginal += p.sum(axis=0)
    marginal /= len(rows)
    seen = marginal[marginal > 0]                                              # 0 log 0 is 0
    return float(np.exp(negative_entropy / len(rows) - (seen * np.log(seen)).sum()))
