"""A study is a file: a base run config, the parameters that vary (W&B's words), what to leave out, and where runs go.

::

    version: 1
    name: digits-demo
    metric: {name: fd_digits_cnn, goal: minimize}
    config: {...}                                # a run config, see config.py
    parameters:
      model.name: {values: [DiT-nano/2, DiT-nano/4]}
      seed: {value: 0}
    exclude:
      - {model.name: DiT-nano/4, seed: 1}
"""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ditscale.config import RunConfig, parse_override, resolve, set_key
from ditscale.errors import UserError, did_you_mean
from ditscale.rundir import RunDir
from ditscale.section import Section, validate
from ditscale.yamlfile import read_yaml


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

    def choices(self) -> list:
        return self.values if self.values is not None else [self.value]


class Spec(Section):
    """A study as its file says it."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metric: Metric
    config: dict
    parameters: dict[str, Parameter] = {}
    exclude: list[dict] = []
    runs_dir: str = "runs"

    @property
    def directory(self) -> Path:
        return Path(self.runs_dir) / self.name


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its config and the directory that is its identity."""

    config: RunConfig
    run: RunDir

    @property
    def run_id(self) -> str:
        return self.run.run_id


def load_spec(path, overrides: tuple[str, ...] = ()) -> Spec:
    """Read a study; ``key=value`` overrides replace the base config's value, or a swept parameter's values.

    Raises:
        UserError: the key, the value and what would work.
    """
    spec = validate(Spec, read_yaml(path), str(path))
    config, parameters = copy.deepcopy(spec.config), dict(spec.parameters)
    for text in overrides:
        key, value = parse_override(text)
        if key in parameters:
            parameters[key] = Parameter(values=value if isinstance(value, list) else [value])
        else:
            set_key(config, key, value)
    return spec.model_copy(update={"config": config, "parameters": parameters})


def expand(spec: Spec, source: str) -> list[PlannedRun]:
    """Every run of the grid, in order, each validated.

    Raises:
        UserError: a config is wrong, an exclude rule names no parameter, or two runs are the same.
    """
    for rule in spec.exclude:
        for key in rule:
            if key not in spec.parameters:
                raise UserError(f"{source}: exclude names '{key}', which is not a parameter"
                                f"{did_you_mean(key, spec.parameters)} Parameters: {', '.join(spec.parameters)}")
    planned: dict[str, PlannedRun] = {}
    names = list(spec.parameters)
    for chosen in itertools.product(*(spec.parameters[name].choices() for name in names)):
        point = dict(zip(names, chosen))
        if any(all(point[key] == value for key, value in rule.items()) for rule in spec.exclude):
            continue
        values = copy.deepcopy(spec.config)
        for key, value in point.items():
            set_key(values, key, value)
        config = resolve(values, source)
        run_id = f"{slug(config)}-{config.science_hash()}"
        if run_id in planned:
            raise UserError(f"{source}: two runs of the grid are the same ({run_id}); a value is given twice")
        planned[run_id] = PlannedRun(config, RunDir(spec.directory / run_id))
    if not planned:
        raise UserError(f"{source}: the study has no runs: exclude leaves nothing of the grid")
    return list(planned.values())


def slug(config: RunConfig) -> str:
    """The readable part of a run's name, for example ``DiT-nano-2-baseline-flow-s0``; a block design of its own is named too."""
    design = "" if config.model.block == "adaln_zero" else f"-{config.model.block}"
    return f"{config.model.name.replace('/', '-')}{design}-{config.objective.name}-{config.formulation.name}-s{config.seed}"
