"""The runs of a study: its grid without exclude, plus include, as narrowed by ``key=value`` on the command line.

``key=value`` keeps the runs that have this value; if none has it, it is set in every run.
"""

import itertools
from contextlib import suppress
from dataclasses import dataclass, field

from ditscale.config import RunConfig, resolve
from ditscale.dotted import dotted_keys, parse_override, set_key
from ditscale.errors import UserError, did_you_mean
from ditscale.models.blocks import DEFAULT_DESIGN
from ditscale.objectives.variant import LABEL_JOIN
from ditscale.rundir import RunDir
from ditscale.section import validate
from ditscale.studies.spec.averages import check_averages
from ditscale.studies.spec.branches import BRANCHES, branch_sources, each_length, settled
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.lengths import derived_sources
from ditscale.studies.spec.phases import check_branches, check_used, phase_of
from ditscale.studies.spec.provenance import Settings, Source, leaves, settings_at, source_at
from ditscale.studies.spec.rates import check_heads
from ditscale.yamlfile import read_yaml

NAMED = ("model.name", "model.block", "objective.name", "formulation.name", "seed")     # keys that are parts of a run's id


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its config and the directory that is its identity."""

    config: RunConfig
    run: RunDir
    phase: str | None = None                                                   # None: the study has none
    point: Settings | None = field(default=None, compare=False, repr=False)    # the settings made by the study, see sources_of

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def settings(self) -> str:
        """What the study sets for this run and its id does not say, as ``lr 0.001, mask_ratio 0.25``; of a bundle its choice alone."""
        shown = {key: value for key, value in (self.point or {}).items() if key not in NAMED and not isinstance(value, (dict, list))}
        return ", ".join(f"{key.rpartition('.')[2]} " * ("." in key) + (f"{value:g}" if isinstance(value, float) else str(value))
                         for key, value in shown.items())


def load_spec(path, overrides: tuple[str, ...] = ()) -> Spec:
    """Reads a study and applies ``key=value`` overrides: each keeps the runs that have its value, or sets it in every run.

    For a key that the study varies, a list means several values. If overrides affect varied keys, the remaining runs are
    in ``include`` and the grid is empty.

    Raises:
        UserError: an override is wrong; the message has the key, the value and what would work.
    """
    spec = validate(Spec, read_yaml(path), str(path))
    changes = [(*parse_override(text), Source(override=text)) for text in overrides]
    varied = spec.varied()
    chosen, config, sources = [], _copied(spec.config), leaves(spec.config, Source(("config",)))
    for key, value, source in changes:
        if any(_within(key, other) or _within(other, key) for other in varied):
            chosen.append((key, value, source))
        else:
            set_key(config, key, value)
            set_key(sources, key, leaves(value, source))
    spec = spec.model_copy(update={"config": config})
    spec._is_narrowed, spec._config_sources = bool(changes), sources
    if not chosen:
        return spec
    points = [one for point in (*_grid(spec, str(path)), *spec.included()) for one in _each_length(spec, point, str(path))]
    for key, value, source in chosen:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise UserError(f"'{key}=[]' has no value; give one value or a list of values")
        points = [point for one in values for point in _choose(spec, points, Settings({key: one}, {key: source}), str(path))]
    settings = [_settings(spec, point, str(path)) for point in points]
    return spec.model_copy(update={"parameters": {}, "bundles": {}, "budgets": None, "isoflop": None, "ladder": None, "exclude": [], "include": settings})


def expand(spec: Spec, source: str) -> list[PlannedRun]:
    """Every run of the grid, in order, then every included run, each validated.

    Raises:
        UserError: a config is wrong, an exclude rule names an unknown parameter, two runs are the same, or one is in no phase.
    """
    planned: dict[str, PlannedRun] = {}
    # Each point with its source: an error in the grid concerns the whole study, an error in an included run only that run.
    points = [(point, source) for point in _grid(spec, source)]
    points += [(point, f"{source} with {', '.join(f'{key}={value}' for key, value in point.items())}") for point in spec.included()]
    points = [(length, place) for point, place in points for length in _each_length(spec, point, place)]
    for point, place in points:
        config = resolve(_at(spec, point, place), place)
        run_id = run_id_of(config)
        if run_id in planned:
            raise UserError(f"{place}: two runs of the study are the same ({run_id}); a value or an included run is given twice")
        phase = phase_of(spec.phases, _settings(spec, point, place), spec.config, config, run_id, source) if spec.phases else None
        planned[run_id] = PlannedRun(config, RunDir(spec.directory / run_id), phase, point)
    if not planned:
        raise UserError(f"{source}: the study has no runs: exclude leaves no time of the grid")
    check_heads(list(planned.values()), source)
    check_averages(list(planned.values()), source)
    check_branches(spec.phases, planned, source)
    if not spec._is_narrowed:
        check_used(spec.phases, {run.phase for run in planned.values()}, source)
    return list(planned.values())


def sources_of(spec: Spec, planned: PlannedRun, source: str) -> dict[str, Source | None]:
    """The source of each value of a run's config, by dotted key; None for a default."""
    sources = branch_sources(derived_sources(_merged(spec._config_sources, _settings(spec, planned.point, source).leaves())))
    return {key: source_at(sources, key) for key in dotted_keys(planned.config.model_dump(mode="json"))}


def _grid(spec: Spec, source: str) -> list[Settings]:
    """The points of the grid without the excluded ones: dotted keys with their values. Without parameters the grid is the base
    config only, or empty if the study lists its runs with include."""
    axes = spec.axes()
    known = [*axes, *spec.pair]
    for rule in spec.exclude:
        for key in rule:
            if key not in known:
                raise UserError(f"{source}: exclude names '{key}', which is not a parameter"
                                f"{did_you_mean(key, known) or '.'} Parameters: {', '.join(known)}")
    if spec.include and not known:
        return []
    points = [_point(axes, chosen).above(pair) for pair in spec.pairs(source) for chosen in itertools.product(*axes.values())]
    for rule in spec.exclude:
        _check_rule(rule, points, source)
    return [point for point in points if not any(_leaves_out(rule, point) for rule in spec.exclude)]


def _each_length(spec: Spec, point: Settings, source: str) -> list[Settings]:
    """A point for each length of its ``train.branches``; the point itself without these."""
    settings = _settings(spec, point, source)
    stated = settings.sources.get(BRANCHES) or source_at(spec._config_sources, BRANCHES) or Source()
    return [length.above(point) for length in each_length(spec.config, settings, stated, source)]


def _point(axes, chosen: tuple[tuple[object, Source], ...]) -> Settings:
    """One choice of each axis."""
    return Settings({key: value for key, (value, _) in zip(axes, chosen)}, {key: source for key, (_, source) in zip(axes, chosen)})


def _leaves_out(rule: dict, point: dict) -> bool:
    """Whether an exclude rule matches the point in each of its keys; a list matches any of its values, as in phases."""
    return all(point[key] == value or isinstance(value, list) and point[key] in value for key, value in rule.items())


def _check_rule(rule: dict, points: list[Settings], source: str) -> None:
    """Raises UserError for a rule that excludes nothing or names a value that no run has (probably a typo)."""
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
    """The points with this value at its key; if none has it, all points with it set, without duplicates."""
    [(key, value)] = wanted.items()
    matching = [point for point in points if _value_at(spec, point, key, source) == value]
    if matching:
        return matching
    changed: dict[str, Settings] = {}
    for point in points:
        point = wanted.above(point.without([other for other in point if _within(other, key)]))
        changed.setdefault(repr(_settings(spec, point, source)), point)        # bundles may now differ only in name
    return list(changed.values())


def _value_at(spec: Spec, point: Settings, key: str, source: str):
    """The value at a key of the run at a point, or its default; None if there is neither."""
    if key in point:
        return point[key]
    values = _at(spec, point, source)
    with suppress(UserError):                                                  # reported with its location when the run is made
        values = resolve(values, source).model_dump(mode="json")
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _at(spec: Spec, point: Settings, source: str) -> dict:
    """The base config with a point's keys set, its lengths in images, and its parent if it is a branch."""
    try:
        values = _merged(spec.config, _settings(spec, point, source))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return settled(values, source, run_id_of)


def _merged(base: dict, settings: dict) -> dict:
    """The base with dotted keys set in order; used for values and for their sources."""
    values = _copied(base)
    for key, value in settings.items():
        set_key(values, key, _copied(value))
    return values


def _settings(spec: Spec, point: Settings, source: str) -> Settings:
    """The config keys that a point sets: those of its bundles, then its own."""
    settings = Settings({}, {})
    for name in (name for name in spec.bundles if name in point):
        choices = spec.bundles[name]
        if point[name] not in choices:
            raise UserError(f"{source}: {name} is '{point[name]}'{did_you_mean(point[name], choices) or '.'} "
                            f"Choices: {', '.join(choices)}")
        settings = settings_at(choices[point[name]], Source(("bundles", name, point[name]))).above(settings)
    return point.without(spec.bundles).above(settings)


def _copied(value):
    """Copies plain YAML values; ``copy.deepcopy`` takes five times as long, and a study may have thousands of runs."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _within(key: str, section: str) -> bool:
    """Whether a dotted key is this section or is in it."""
    return key == section or key.startswith(section + ".")


def run_id_of(config: RunConfig) -> str:
    return f"{slug(config)}-{config.science_hash()}"


def slug(config: RunConfig) -> str:
    """The readable part of a run's name, for example ``DiT-nano-2-baseline-flow-s0``; a non-default block design is included."""
    design = "" if config.model.block == DEFAULT_DESIGN else f"-{config.model.block}"
    variant = config.objective.label.replace(LABEL_JOIN, "-")
    return f"{config.model.name.replace('/', '-')}{design}-{variant}-{config.formulation.name}-s{config.seed}"
