"""Learning rates over a study's sizes: what a parametrization needs of them, and where sizes share a rate that none was tuned for."""

from ditscale.errors import UserError
from ditscale.models.sizes import parse_model_name


def check_heads(runs: list, source: str) -> None:
    """Raises UserError for runs under muP or CompleteP with heads of several widths: attention would not transfer."""
    heads: dict[int, str] = {}
    for planned in runs:
        model = planned.config.model
        if model.parametrization != "standard":
            dims = parse_model_name(model.name).dims
            heads.setdefault(dims.hidden_size // dims.num_heads, model.name)
    if len(heads) > 1:
        named = " and ".join(f"{width} ({name})" for width, name in sorted(heads.items()))
        dims = parse_model_name(next(iter(heads.values()))).dims
        raise UserError(f"{source}: model.parametrization needs heads of one width, and these models have heads of {named}; name models by depth x width, "
                        f"which have heads of 64, for example DiT-{dims.depth}x{max(64, dims.hidden_size // 64 * 64)}/2")


def shared_rate(runs: list) -> str:
    """A warning where standard models of several widths have one and the same rate; "" if there is none."""
    rates: dict[str, set[float]] = {}
    widths: dict[str, set[int]] = {}
    for planned in runs:
        config = planned.config
        if config.model.parametrization == "standard" and not config.imported:
            rates.setdefault(config.objective.label, set()).add(config.train.lr)
            widths.setdefault(config.objective.label, set()).add(parse_model_name(config.model.name).dims.hidden_size)
    shared = {name: next(iter(found)) for name, found in rates.items() if len(found) == 1 and len(widths[name]) > 1}
    if not shared:
        return ""
    most = max(len(widths[name]) for name in shared)
    values = ", ".join(f"{rate:g}" for rate in dict.fromkeys(shared.values()))
    return (f"Note: {most} widths share train.lr {values}. The best rate falls with the width, so a comparison of sizes also compares how well the rate suits "
            "each. Sweep it, or set model.parametrization: docs/rates.md")
