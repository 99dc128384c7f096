"""A run's method in words: its variant and every other choice of how it is trained that is not the default.

``baseline``, ``masked, mask_ratio=0.75``, ``baseline, with dispersive``, ``baseline, block=cross_attention, optimizer=muon``. Size, data, batch,
rate and length are no part of it: runs of one method may differ in them, as runs of one variant may.
"""

from ditscale.config import RunConfig

NO_PART = {"name", "class_dropout_prob", "parametrization", "base_width", "base_depth"}    # of model: size, labels, how rates follow the size

OF_STEP = "optimizer", "grad_clip"                                             # of train: how a gradient becomes a step; 0 is no clipping


def method_of(config: RunConfig) -> str:
    """The method of a run, the same for all its seeds, sizes and lengths."""
    science = config.science()
    own = {key: value for key, value in science["objective"].items() if key != "name"}
    model = {key: value for key, value in science["model"].items() if key not in NO_PART}
    formulation = {key: value for key, value in science["formulation"].items() if key != "name"}
    step = {key: science["train"].get(key) for key in OF_STEP}
    chosen = {**own, **model, **formulation, **{key: value for key, value in step.items() if value}}
    return ", ".join([config.objective.name, *(f"{key}{' ' if key == 'with' else '='}{_words(value)}" for key, value in chosen.items())])


def _words(value) -> str:
    """A setting's value: a section by its name, with its own settings in parentheses."""
    if isinstance(value, dict):
        name = value.get("name")
        more = " ".join(f"{key}={_words(inner)}" for key, inner in value.items() if key != "name")
        return f"{name} ({more})" if name and more else str(name or more)
    if isinstance(value, (list, tuple)):
        return " + ".join(_words(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
