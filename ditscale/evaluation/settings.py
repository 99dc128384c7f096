"""The evaluations requested by ``key=value`` on the command line: a list of values makes one evaluation each."""

import itertools

from ditscale.config import EvaluationConfig, RunConfig, resolve
from ditscale.diffusion.nfe import without_others
from ditscale.dotted import parse_override
from ditscale.errors import UserError, did_you_mean
from ditscale.training.checkpoint.weights import with_data

DATA_PATH = "data.path"                                                        # of a run that is not where its data is
# Keys with a single value, so that a list of values is a sweep.
SWEPT = ("seed", "guidance_scale", "guidance_power", "guidance_schedule", "guidance_channels", "sampler", "sampling_steps", "eta",
         "churn", "sde_diffusion", "sde_norm", "sde_last", "heun_last", "rounding", "average", "samples", "labels")


def sweep(config: RunConfig, overrides: tuple[str, ...]) -> list[RunConfig]:
    """The run's config with each combination of the overrides in its section ``evaluation``.

    Raises:
        UserError: an unknown key, a list for a key that cannot be swept, or contradictory values.
    """
    values = config.model_dump(mode="json")
    stated, axes = values["evaluation"] or {}, read(overrides)
    preset = {} if stated else (values["imported"] or {}).get("sampling") or {}
    combinations = [dict(zip(axes, chosen)) for chosen in itertools.product(*axes.values())]
    return [resolve({**values, "evaluation": {**_one_guidance(stated, chosen), **without_others(preset, chosen), **chosen}}, "evaluate")
            for chosen in combinations]


def _one_guidance(stated: dict, chosen: dict) -> dict:
    """The run's keys without its own way to choose the guidance, where ``chosen`` has the other: a scale, or a search."""
    other = {"guidance": ("guidance_scale",), "guidance_scale": ("guidance", "guidance_search")}
    dropped = {key for name in chosen for key in other.get(name, ()) if key not in chosen and chosen[name] is not None}
    return {key: value for key, value in stated.items() if key not in dropped}


def placed(config: RunConfig, overrides: tuple[str, ...]) -> tuple[RunConfig, tuple[str, ...]]:
    """The run's config with the override ``data.path``, where there is one, and the other overrides."""
    at = [text for text in overrides if text.partition("=")[0].strip() == DATA_PATH]
    if at and config.imported:
        raise UserError(f"'{at[0]}': the weights are imported, and no data is read")
    for text in at:
        config = with_data(config, parse_override(text)[1])
    return config, tuple(text for text in overrides if text not in at)


def read(overrides: tuple[str, ...]) -> dict[str, list]:
    """Key to its values, one or several."""
    axes: dict[str, list] = {}
    for text in overrides:
        key, value = parse_override(text, "guidance_scale=1.5")
        key = key.removeprefix("evaluation.")
        if key not in EvaluationConfig.model_fields:
            raise UserError(f"'{text}': no such key{did_you_mean(key, EvaluationConfig.model_fields) or '.'} "
                            f"Keys: {', '.join(EvaluationConfig.model_fields)}")
        if key in axes:
            raise UserError(f"'{text}': {key} is given twice; write several values as one list, {key}=[{axes[key][0]}, ...]")
        axes[key] = list(value) if isinstance(value, list) and key in SWEPT else [value]
        if not axes[key]:
            raise UserError(f"'{text}': the list is empty")
    return axes
