"""The two published laws of the compute-optimal diffusion transformer, N* = a C^b, and their difference.

Liang et al. (arXiv 2410.08184): N ~ C^0.568, data ~ C^0.432; isoFLOP curves of in-context DiTs, 1e17 to 6e18 FLOPs. Abra (arXiv 2608.17286):
N ~ C^0.495, data ~ C^0.505; text-to-image MM-DiTs of 60M to 2B parameters, 1e19 to 1e22 FLOPs, tuned by CompleteP, fitted to a validation
loss; the authors argue that Liang's runs are undertrained. Neither is for class-conditional adaLN DiTs: use a study's own curves. Each counts
parameters differently: with Abra's N and D, C = 8.8 N D, instead of 6 N D for a plain transformer.
"""

LIANG, ABRA = "Liang et al.", "Abra"
PUBLISHED = {LIANG: (0.0009, 0.5681), ABRA: (0.0301, 0.4951)}                  # a, b


def published_optimum(law: str, flops: float) -> float:
    """N* of a published law, in parameters."""
    coefficient, exponent = PUBLISHED[law]
    return coefficient * flops**exponent


def disagreement(budgets: list[float]) -> str:
    """A sentence on the two laws' disagreement at a study's lowest and highest budget."""
    ends = dict.fromkeys((min(budgets), max(budgets)))
    sizes = ["at {:.3g} FLOPs {:.3g} M and {:.3g} M".format(flops, *(published_optimum(law, flops) / 1e6 for law in PUBLISHED)) for flops in ends]
    exponents = " and ".join(f"{law} (N ~ C^{exponent:.3f})" for law, (_, exponent) in PUBLISHED.items())
    return f"the published optima disagree: {exponents} give {', '.join(sizes)}; set another with isoflop.center"
