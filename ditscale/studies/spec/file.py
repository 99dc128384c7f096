"""The study file: a base run config, the parameters that vary (as in W&B), runs to leave out, runs to add.

::

    version: 1
    name: digits-demo
    metric: {name: fd_digits_cnn, goal: minimize}
    config: {...}                                # a run config, see config.py
    parameters:
      model.name: {values: [DiT-nano/2, DiT-nano/4]}
      seed: {value: 0}
    bundles:                                     # settings that change together: one more axis of the grid, with names
      variant: {plain: {objective.name: baseline}, mdt: {objective.name: mdt, train.lr: 3e-4}}
    budgets: {flops: [1e18, 3e18]}               # one more axis: train.flops (or images), see budgets.py
    isoflop: {budgets: [1e18, 3e18]}             # or models and lengths by budget, see budget_grid.py
    ladder: {rungs: [...], target: DiT-XL/2, tokens_per_parameter: 200}  # or rungs to predict a target from, see ladder.py
    exclude:
      - {model.name: DiT-nano/4, seed: 1}
    include:                                     # each adds one run: the base config with these keys set, swept or not
      - {model.name: DiT-nano/2, objective.name: mdt}
    phases: {pilot: {train.flops: 1e18}, main: {}}  # which runs come first, see phases.py
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from ditscale.config import RunConfig
from ditscale.dotted import current_setting, current_settings
from ditscale.errors import UserError
from ditscale.section import Count, Section
from ditscale.studies.spec.branches import BRANCHES, IMAGES, listed
from ditscale.studies.spec.budget_grid import IsoFlop, isoflop_curves
from ditscale.studies.spec.budgets import Budgets
from ditscale.studies.spec.ladder import KEYS, Ladder, steps
from ditscale.studies.spec.provenance import Settings, Source, settings_at

PAIR = ("model.name", "train.flops")                                           # set together by an isoFLOP design
DRAWN = ("distribution", "min", "max", "mu", "sigma", "q", "probabilities")    # W&B's keys for distributions


class MetricGoal(Section):
    name: str
    goal: Literal["minimize", "maximize"] = "minimize"


class Parameter(Section):
    """``{value: x}`` or ``{values: [x, y]}``."""

    value: object = None
    values: list | None = None

    @model_validator(mode="after")
    def _one_of_two(self):
        if ("value" in self.model_fields_set) == ("values" in self.model_fields_set):
            raise UserError("a parameter takes either 'value: x' or 'values: [x, y]'")
        if self.values is not None and not self.values:
            raise UserError("a parameter's 'values' is empty")
        return self

    def choices(self, place: tuple) -> list[tuple[object, Source]]:
        """Its values with their sources; ``place`` is the parameter's location."""
        if self.values is None:
            return [(self.value, Source((*place, "value")))]
        return [(value, Source((*place, "values", number))) for number, value in enumerate(self.values)]


def _check_parameter(key: str, setting) -> None:
    """Raises UserError for W&B's other forms of a parameter, with what to write instead."""
    if not isinstance(setting, dict):
        shown = setting if isinstance(setting, list) else [setting]
        raise UserError(f"'parameters.{key}' is {setting!r}; write {key}: {{values: {shown}}}")
    inner = setting.get("parameters", setting)
    if isinstance(inner, dict) and not {"value", "values"} & setting.keys() and any(isinstance(one, dict) for one in inner.values()):
        first = next(name for name, one in inner.items() if isinstance(one, dict))
        raise UserError(f"parameters: {key} is nested; write a dotted key for each, for example {key}.{first}: {{values: [...]}}")
    if drawn := [name for name in DRAWN if name in setting]:
        ends = [setting[name] for name in ("min", "max") if name in setting] or ["..."]
        values = setting.get("values", ends)
        raise UserError(f"parameters: {key} has {', '.join(drawn)}; distributions are not supported here, because a study's runs are listed "
                        f"before they start: write {key}: {{values: [{', '.join(map(str, values))}]}} with each value to run")


def _current_spelling(study: dict) -> dict:
    """A study's values with older spellings of config keys and values replaced everywhere."""
    study = dict(study)
    for part in ("config", "include", "exclude", "phases", "bundles"):
        if part in study:
            study[part] = _current_settings(study[part], depth={"include": 1, "exclude": 1, "phases": 1, "bundles": 2}.get(part, 0))
    if isinstance(study.get("parameters"), dict):
        study["parameters"] = current_settings(study["parameters"])
        for key, setting in study["parameters"].items():
            if isinstance(key, str) and isinstance(setting, dict):
                study["parameters"][key] = {form: current_setting(key, choice)[1] for form, choice in setting.items()}
    return study


def _current_settings(values, depth: int):
    """Settings, or ``depth`` levels of lists or mappings of them; anything else is left to the validation."""
    if depth and isinstance(values, list):
        return [_current_settings(one, depth - 1) for one in values]
    if not isinstance(values, dict):
        return values
    return {key: _current_settings(one, depth - 1) for key, one in values.items()} if depth else current_settings(values)


class Limits(Section):
    """The maximum cost of a study; see plan/plan.py."""

    runs: Count | None = Field(default=None, gt=0)
    accelerator_hours: float | None = Field(default=None, gt=0)                # as forecast for the machine of the launch
    train_flops: float | None = Field(default=None, gt=0)


class Spec(Section):
    """A study as written in its file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metric: MetricGoal
    config: dict
    parameters: dict[str, Parameter] = {}
    bundles: dict[str, dict[str, dict[str, object]]] = {}
    budgets: Budgets | None = None
    isoflop: IsoFlop | None = None
    ladder: Ladder | None = None
    exclude: list[dict] = []
    include: list[dict[str, object]] = []
    phases: dict[str, dict[str, object]] = {}
    limits: Limits | None = None
    runs_dir: str = "runs"
    _is_narrowed: bool = PrivateAttr(False)                                    # by key=value: a phase may then have no runs
    _config_sources: dict = PrivateAttr({})                                    # the sources of config, with the same nesting

    @model_validator(mode="before")
    @classmethod
    def _check_parameters(cls, values):
        parameters = values.get("parameters")
        if isinstance(parameters, dict):
            for key, setting in parameters.items():
                _check_parameter(key, setting)
        return _current_spelling(values)

    @model_validator(mode="after")
    def _check_axes(self):
        for name, choices in self.bundles.items():
            if not choices:
                raise UserError(f"bundles: '{name}' is empty")
            if name in self.parameters or name in RunConfig.model_fields or "." in name:
                raise UserError(f"bundles: '{name}' is a key of the config or a parameter; give the bundle another name")
        if self.budgets and self.budgets.axis()[0] in self.parameters:
            raise UserError(f"budgets: {self.budgets.axis()[0]} is also a parameter; keep one of the two")
        if self.isoflop and (self.budgets or {*PAIR, "train.images"} & self.parameters.keys()):
            raise UserError("isoflop decides models and lengths; leave budgets and the parameters model.name, train.flops and "
                            "train.images out")
        if self.ladder and (self.isoflop or self.budgets or {*PAIR, *KEYS} & self.parameters.keys()):
            raise UserError("ladder decides models and lengths; leave isoflop, budgets and the parameters model.name, train.flops and "
                            "train.images out")
        if self.ladder and not self.phases:
            self.phases.update(self.ladder.phases)
        return self

    @property
    def directory(self) -> Path:
        return Path(self.runs_dir) / self.name

    def axes(self) -> dict[str, list[tuple[object, Source]]]:
        """The axes of the grid: config keys and names of bundles, with their choices and the location of each."""
        axes = {key: parameter.choices(("parameters", key)) for key, parameter in self.parameters.items()}
        axes |= {name: [(choice, Source(("bundles", name, choice))) for choice in choices] for name, choices in self.bundles.items()}
        if self.budgets:
            key, values = self.budgets.axis()
            axes[key] = [(value, Source(("budgets", self.budgets.currency, number))) for number, value in enumerate(values)]
        return axes

    def included(self) -> list[Settings]:
        """The runs of ``include``; those kept by ``key=value`` have their own sources."""
        return [settings if isinstance(settings, Settings) else settings_at(settings, Source(("include", number)))
                for number, settings in enumerate(self.include)]

    def varied(self) -> set[str]:
        """The keys in which runs may differ: the axes, keys set by bundles, an isoFLOP design and included runs, and lengths."""
        keys = {*self.axes(), *self.pair, *(key for settings in self.include for key in settings)}
        keys |= {key for choices in self.bundles.values() for settings in choices.values() for key in settings}
        has_branches = BRANCHES in keys or listed(self.config, {}) is not None
        return keys | ({IMAGES} if "train.flops" in keys or has_branches else set())

    @property
    def pair(self) -> tuple[str, ...]:
        """The keys that an isoFLOP design or a ladder sets together."""
        return PAIR if self.isoflop else KEYS if self.ladder else ()

    def pairs(self, source: str) -> list[Settings]:
        """Model and length of each run of an isoFLOP design or a ladder, which is one more axis; without one, a single empty setting."""
        if self.ladder:
            return [Settings(dict(zip(KEYS, (step.model, step.images))), dict.fromkeys(KEYS, Source(("ladder",))))
                    for step in steps(self.ladder, self.config, source)]
        if self.isoflop is None:
            return [Settings({}, {})]
        return [Settings(dict(zip(PAIR, (name, curve.flops))), dict(zip(PAIR, (Source(("isoflop",)), Source(("isoflop", "budgets", number))))))
                for number, curve in enumerate(isoflop_curves(self.isoflop, self.config, source)) for name in curve.models]
