"""Models that are narrower than a patch: what they cannot output puts a floor under their loss, and a comparison of sizes compares floors."""

from ditscale.models.sizes import parse_model_name
from ditscale.objectives.variant import AddedDecoder


def narrow_models(runs: list) -> str:
    """A warning where a network that predicts noise or velocity, or its added decoder, is narrower than the numbers of a patch; "" if there is none.

    Noise is white: it has as many directions as a patch has numbers, and the last layer can reach only as many as the width. A network that predicts
    the clean image (``formulation.prediction: x``) need not.
    """
    found: dict[str, None] = {}
    for planned in runs:
        config = planned.config
        name = parse_model_name(config.model.name)
        numbers = config.data.channels * name.patch_size**2
        if config.imported or getattr(config.formulation, "prediction", "") == "x":
            continue
        parts = {f"{config.model.name} has width {name.dims.hidden_size}": (name.dims.hidden_size, numbers)}
        if isinstance(config.objective, AddedDecoder):
            width = config.objective.decoder(name.dims).width
            parts = {f"the {config.objective.name} decoder of {config.model.name} has width {width} (objective.decoder_width)": (width, numbers), **parts}
        found |= dict.fromkeys(f"{words}, a patch {numbers} numbers" for words, (width, numbers) in parts.items() if width < numbers)
    if not found:
        return ""
    named = "; ".join(list(found)[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    return f"Note: {named}. Noise in all of them cannot be predicted, so the loss has a floor that a wider one has not. Take a smaller patch or a larger width."
