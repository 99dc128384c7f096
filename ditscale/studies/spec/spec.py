"""A study is a file: a base run config, the parameters that vary (W&B's words), what to leave out, what to add, where runs go.

::

    version: 1
    name: digits-demo
    metric: {name: fd_digits_cnn, goal: minimize}
    config: {...}                                # a run config, see config.py
    parameters:
      model.name: {values: [DiT-nano/2, DiT-nano/4]}
      seed: {value: 0}
    bundles:                                     # values that move together: one more axis of the grid, with names
      variant: {plain: {objective.name: baseline}, mdt: {objective.name: mdt, train.lr: 3e-4}}
    budgets: {flops: [1e18, 3e18]}               # one more axis: train.flops (or images), see budgets.py
    isoflop: {budgets: [1e18, 3e18]}             # or models and lengths by budget, see isoflop.py
    exclude:
      - {model.name: DiT-nano/4, seed: 1}
    include:                                     # each adds one run: the base config with these keys set, swept or not
      - {model.name: DiT-nano/2, objective.name: mdt}
    phases: {pilot: {train.flops: 1e18}, main: {}}  # which runs come first, see phases.py

``key=value`` on the command line keeps the runs that have this value; where none has, it is set in every run.
"""

import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from ditscale.config import RunConfig, dotted_keys, parse_override, resolve, set_key
from ditscale.errors import UserError, did_you_mean
from ditscale.models.blocks import DEFAULT_DESIGN
from ditscale.rundir import RunDir
from ditscale.section import Count, Section, validate
from ditscale.studies.spec.budget_grid import IsoFlop, curves
from ditscale.studies.spec.budgets import Budgets
from ditscale.studies.spec.lengths import derive, derived_sources
from ditscale.studies.spec.phases import check_used, phase_of
from ditscale.studies.spec.provenance import Settings, Source, leaves, said_at, source_at
from ditscale.yamlfile import read_yaml

PAIR = ("model.name", "train.flops")                                           # what an isoFLOP design sets together


DRAWN = ("distribution", "min", "max", "mu", "sigma", "q", "probabilities")    # W&B's, of distributions


class Metric(Section):
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
        """Its values with their sources; ``place`` is its own."""
        if self.values is None:
            return [(self.value, Source((*place, "value")))]
        return [(value, Source((*place, "values", number))) for number, value in enumerate(self.values)]


def _check_parameter(key: str, setting) -> None:
    """Say what to write in place of W&B's other forms of a parameter."""
    if not isinstance(setting, dict):
        shown = setting if isinstance(setting, list) else [setting]
        raise UserError(f"'parameters.{key}' is {setting!r}; write {key}: {{values: {shown}}}")
    inner = setting.get("parameters", setting)
    if isinstance(inner, dict) and not {"value", "values"} & setting.keys() and any(isinstance(one, dict) for one in inner.values()):
        first = next(name for name, one in inner.items() if isinstance(one, dict))
        raise UserError(f"parameters: {key} is nested; write a dotted key for each, as {key}.{first}: {{values: [...]}}")
    if drawn := [name for name in DRAWN if name in setting]:
        ends = [setting[name] for name in ("min", "max") if name in setting] or ["..."]
        values = setting.get("values", ends)
        raise UserError(f"parameters: {key} has {', '.join(drawn)}; nothing is drawn from distributions here, as a study's runs are listed "
                        f"before they start: write {key}: {{values: [{', '.join(map(str, values))}]}} with each value to run")


class Limits(Section):
    """What a study may take at most; see limits.py."""

    runs: Count | None = Field(None, gt=0)
    accelerator_hours: float | None = Field(None, gt=0)                        # as forecast for where it is launched
    train_flops: float | None = Field(None, gt=0)


class Spec(Section):
    """A study as its file says it."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metric: Metric
    config: dict
    parameters: dict[str, Parameter] = {}
    bundles: dict[str, dict[str, dict[str, object]]] = {}
    budgets: Budgets | None = None
    isoflop: IsoFlop | None = None
    exclude: list[dict] = []
    include: list[dict[str, object]] = []
    phases: dict[str, dict[str, object]] = {}
    limits: Limits | None = None
    runs_dir: str = "runs"
    _is_narrowed: bool = PrivateAttr(False)                                    # by key=value: a phase may have no runs then
    _said: dict = PrivateAttr({})                                              # the sources of config, in their place

    @model_validator(mode="before")
    @classmethod
    def _check_parameters(cls, values):
        parameters = values.get("parameters")
        if isinstance(parameters, dict):
            for key, setting in parameters.items():
                _check_parameter(key, setting)
        return values

    @model_validator(mode="after")
    def _check_axes(self):
        for name, choices in self.bundles.items():
            if not choices:
                raise UserError(f"bundles: '{name}' is empty")
            if name in self.parameters or name in RunConfig.model_fields or "." in name:
                raise UserError(f"bundles: '{name}' is a key of the config or a parameter; give the bundle a name of its own")
        if self.budgets and self.budgets.axis()[0] in self.parameters:
            raise UserError(f"budgets: {self.budgets.axis()[0]} is a parameter as well; keep one of the two")
        if self.isoflop and (self.budgets or {*PAIR, "train.images"} & self.parameters.keys()):
            raise UserError("isoflop decides models and lengths; leave budgets and the parameters model.name, train.flops and "
                            "train.images out")
        return self

    @property
    def directory(self) -> Path:
        return Path(self.runs_dir) / self.name

    def axes(self) -> dict[str, list[tuple[object, Source]]]:
        """What the grid runs over: keys of the config, and names of bundles, with their choices and where each stands."""
        axes = {key: parameter.choices(("parameters", key)) for key, parameter in self.parameters.items()}
        axes |= {name: [(choice, Source(("bundles", name, choice))) for choice in choices] for name, choices in self.bundles.items()}
        if self.budgets:
            key, values = self.budgets.axis()
            axes[key] = [(value, Source(("budgets", self.budgets.currency, number))) for number, value in enumerate(values)]
        return axes

    def included(self) -> list[Settings]:
        """The runs of ``include``; those that ``key=value`` left bring their sources."""
        return [settings if isinstance(settings, Settings) else said_at(settings, Source(("include", number)))
                for number, settings in enumerate(self.include)]

    def varied(self) -> set[str]:
        """The keys in which runs may differ: the axes, what bundles, an isoFLOP design and included runs set, and lengths."""
        keys = {*self.axes(), *(PAIR if self.isoflop else ()), *(key for settings in self.include for key in settings)}
        keys |= {key for choices in self.bundles.values() for settings in choices.values() for key in settings}
        return keys | ({"train.images"} if "train.flops" in keys else set())

    def pairs(self, source: str) -> list[Settings]:
        """Model and budget of each run of an isoFLOP design, which is one more axis; of none, one that says nothing."""
        if self.isoflop is None:
            return [Settings({}, {})]
        return [Settings(dict(zip(PAIR, (name, curve.flops))), dict(zip(PAIR, (Source(("isoflop",)), Source(("isoflop", "budgets", number))))))
                for number, curve in enumerate(curves(self.isoflop, self.config, source)) for name in curve.models]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its config and the directory that is its identity."""

    config: RunConfig
    run: RunDir
    phase: str | None = None                                                   # None: the study has none
    point: Settings | None = field(default=None, compare=False, repr=False)    # what the study sets in it, see sources_of

    @property
    def run_id(self) -> str:
        return self.run.run_id


def load_spec(path, overrides: tuple[str, ...] = ()) -> Spec:
    """Read a study as ``key=value`` overrides leave it: each keeps the runs that have its value, or sets it in every run.

    For a key that the study varies, a list means several values. Where overrides touch such keys the runs that are left stand
    in ``include``, and the grid is empty.

    Raises:
        UserError: the key, the value and what would work.
    """
    spec = validate(Spec, read_yaml(path), str(path))
    changes = [(*parse_override(text), Source(override=text)) for text in overrides]
    varied = spec.varied()
    chosen, config, said = [], _copied(spec.config), leaves(spec.config, Source(("config",)))
    for key, value, source in changes:
        if any(_within(key, other) or _within(other, key) for other in varied):
            chosen.append((key, value, source))
        else:
            set_key(config, key, value)
            set_key(said, key, leaves(value, source))
    spec = spec.model_copy(update={"config": config})
    spec._is_narrowed, spec._said = bool(changes), said
    if not chosen:
        return spec
    points = [*_grid(spec, str(path)), *spec.included()]
    for key, value, source in chosen:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UserError(f"'{key}=[]' chooses no value; give one, or a list of some")
        points = [point for one in values for point in _choose(spec, points, Settings({key: one}, {key: source}), str(path))]
    settings = [_settings(spec, point, str(path)) for point in points]
    return spec.model_copy(update={"parameters": {}, "bundles": {}, "budgets": None, "isoflop": None, "exclude": [], "include": settings})


def expand(spec: Spec, source: str) -> list[PlannedRun]:
    """Every run of the grid, in order, then every included one, each validated.

    Raises:
        UserError: a config is wrong, an exclude rule names no parameter, two runs are the same, or one is in no phase.
    """
    planned: dict[str, PlannedRun] = {}
    # Each point with its source: a grid's mistakes are those of the whole study, an included run's are its own.
    points = [(point, source) for point in _grid(spec, source)]
    points += [(point, f"{source} with {', '.join(f'{key}={value}' for key, value in point.items())}") for point in spec.included()]
    for point, place in points:
        config = resolve(_at(spec, point, place), place)
        run_id = f"{slug(config)}-{config.science_hash()}"
        if run_id in planned:
            raise UserError(f"{place}: two runs of the study are the same ({run_id}); a value or an included run is given twice")
        phase = phase_of(spec.phases, _settings(spec, point, place), spec.config, config, run_id, source) if spec.phases else None
        planned[run_id] = PlannedRun(config, RunDir(spec.directory / run_id), phase, point)
    if not planned:
        raise UserError(f"{source}: the study has no runs: exclude leaves nothing of the grid")
    if not spec._is_narrowed:
        check_used(spec.phases, {run.phase for run in planned.values()}, source)
    return list(planned.values())


def sources_of(spec: Spec, planned: PlannedRun, source: str) -> dict[str, Source | None]:
    """Where each value of a run's config was said, by dotted key; None: nowhere, it is the default."""
    said = derived_sources(_merged(spec._said, _settings(spec, planned.point, source).leaves()))
    return {key: source_at(said, key) for key in dotted_keys(planned.config.model_dump(mode="json"))}


def _grid(spec: Spec, source: str) -> list[Settings]:
    """The points of the grid that exclude leaves: dotted keys with their values. Without parameters the grid is the base
    config alone, or nothing where the study says its runs with include."""
    axes = spec.axes()
    known = [*axes, *(PAIR if spec.isoflop else ())]
    for rule in spec.exclude:
        for key in rule:
            if key not in known:
                raise UserError(f"{source}: exclude names '{key}', which is not a parameter"
                                f"{did_you_mean(key, known)} Parameters: {', '.join(known)}")
    if spec.include and not known:
        return []
    points = [_point(axes, chosen).above(pair) for pair in spec.pairs(source) for chosen in itertools.product(*axes.values())]
    for rule in spec.exclude:
        _check_rule(rule, points, source)
    return [point for point in points if not any(_leaves_out(rule, point) for rule in spec.exclude)]


def _point(axes, chosen: tuple[tuple[object, Source], ...]) -> Settings:
    """One choice of each axis."""
    return Settings({key: value for key, (value, _) in zip(axes, chosen)}, {key: source for key, (_, source) in zip(axes, chosen)})


def _leaves_out(rule: dict, point: dict) -> bool:
    """Whether a rule of exclude has the point's value of each of its keys; a list is any of its values, as in phases."""
    return all(point[key] == value or isinstance(value, list) and point[key] in value for key, value in rule.items())


def _check_rule(rule: dict, points: list[Settings], source: str) -> None:
    """Raises UserError for a rule that leaves nothing out, or names a value that no run has: it is misspelt."""
    for key, value in rule.items():
        there = [point[key] for point in points]
        for one in value if isinstance(value, list) and value not in there else [value]:
            if one not in there:
                choices = list(dict.fromkeys(map(str, there)))
                raise UserError(f"{source}: exclude names {key}: {one}, which no run has{did_you_mean(one, choices) or '.'} "
                                f"There are: {', '.join(choices)}")
    if not any(_leaves_out(rule, point) for point in points):
        words = ", ".join(f"{key}: {value}" for key, value in rule.items())
        raise UserError(f"{source}: exclude {{{words}}} leaves nothing out: no run has these values together")


def _choose(spec: Spec, points: list[Settings], wanted: Settings, source: str) -> list[Settings]:
    """The points with this value at its key; where none has it, all points with it set, each kept once."""
    [(key, value)] = wanted.items()
    matching = [point for point in points if _value_at(spec, point, key, source) == value]
    if matching:
        return matching
    changed: dict[str, Settings] = {}
    for point in points:
        point = wanted.above(point.without([other for other in point if _within(other, key)]))
        changed.setdefault(repr(_settings(spec, point, source)), point)        # bundles may now differ in name alone
    return list(changed.values())


def _value_at(spec: Spec, point: Settings, key: str, source: str):
    """What the run at a point has at a key, its default where nothing says; None where there is nothing."""
    if key in point:
        return point[key]
    values = _at(spec, point, source)
    with suppress(UserError):                                                  # told, with its place, when the run is made
        values = resolve(values, source).model_dump(mode="json")
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _at(spec: Spec, point: Settings, source: str) -> dict:
    """The base config with a point's keys set, and its lengths in images."""
    try:
        values = _merged(spec.config, _settings(spec, point, source))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return derive(values, source)


def _merged(base: dict, settings: dict) -> dict:
    """The base with dotted keys set, one after the other: of values, and in the same way of their sources."""
    values = _copied(base)
    for key, value in settings.items():
        set_key(values, key, _copied(value))
    return values


def _settings(spec: Spec, point: Settings, source: str) -> Settings:
    """The keys of the config that a point sets: those of its bundles, then its own."""
    settings = Settings({}, {})
    for name in (name for name in spec.bundles if name in point):
        choices = spec.bundles[name]
        if point[name] not in choices:
            raise UserError(f"{source}: {name} is '{point[name]}'{did_you_mean(point[name], choices) or '.'} "
                            f"Choices: {', '.join(choices)}")
        settings = said_at(choices[point[name]], Source(("bundles", name, point[name]))).above(settings)
    return point.without(spec.bundles).above(settings)


def _copied(value):
    """Plain YAML values copied; ``copy.deepcopy`` takes five times as long, and a study may have thousands of runs."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _within(key: str, section: str) -> bool:
    """Whether a dotted key is this section or lies in it."""
    return key == section or key.startswith(section + ".")


def slug(config: RunConfig) -> str:
    """The readable part of a run's name, for example ``DiT-nano-2-baseline-flow-s0``; a block design of its own is named too."""
    design = "" if config.model.block == DEFAULT_DESIGN else f"-{config.model.block}"
    return f"{config.model.name.replace('/', '-')}{design}-{config.objective.name}-{config.formulation.name}-s{config.seed}"
