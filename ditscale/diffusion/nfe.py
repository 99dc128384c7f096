"""Model evaluations of a sampler: a fact that the planner asks without torch."""


def evaluations(sampler: str, steps: int) -> int:
    """Model evaluations (NFE) for one image, guidance counted once. Heun's last step is a plain Euler step."""
    return {"euler": steps, "heun": 2 * steps - 1}[sampler]
