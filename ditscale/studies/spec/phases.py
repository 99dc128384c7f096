"""Phases of a study: which runs start first. A phase starts when all runs of the earlier phases are done.

::

    phases:
      pilot: {train.flops: [1e16, 3e16]}         # the runs with one of these values
      main: {}                                   # the remaining runs

A run belongs to the first phase with values that all match its own.
"""

from ditscale.config import RunConfig
from ditscale.dotted import dotted_keys
from ditscale.errors import UserError, did_you_mean


def phase_of(phases: dict[str, dict], settings: dict, base: dict, config: RunConfig, run_id: str, source: str) -> str:
    """The phase of a run; ``settings`` are the keys that its study sets on top of ``base``.

    Raises:
        UserError: a phase names an unknown key, or no phase matches the run.
    """
    # A length from which others are derived, such as train.flops, is only in the base or the settings.
    values = dotted_keys(base) | dotted_keys(config.model_dump(mode="json")) | settings
    for name, wanted in phases.items():
        for key in wanted:
            if key not in values:
                raise UserError(f"{source}: phases: {name}: '{key}' is not a key of the config{did_you_mean(key, values) or '.'}")
        if all(values[key] == value or isinstance(value, list) and values[key] in value for key, value in wanted.items()):
            return name
    raise UserError(f"{source}: phases: {run_id} is in none of {', '.join(phases)}; let the last one match all others: rest: {{}}")


def check_used(phases: dict[str, dict], used: set[str], source: str) -> None:
    """Raises UserError for a phase without runs: a value is misspelled, or an earlier phase matches them all."""
    for name, wanted in phases.items():
        if name not in used:
            raise UserError(f"{source}: phases: '{name}' has no runs: after the earlier phases, none has {wanted or 'been left'}")


def check_branches(phases: dict[str, dict], planned: dict, source: str) -> None:
    """Raises UserError for a branch in an earlier phase than its trunk, which it would wait for; ``planned`` are the study's runs by id."""
    order = list(phases)
    for run_id, branch in planned.items():
        trunk = planned.get(branch.config.parent.run) if branch.config.parent else None
        if trunk and phases and order.index(branch.phase) < order.index(trunk.phase):
            raise UserError(f"{source}: phases: {run_id} is in '{branch.phase}' and branches off {trunk.run_id} in '{trunk.phase}', which is later; put "
                            "both in one phase, or the trunk in an earlier one")


def in_order(spec, runs: list) -> list[tuple[str | None, list]]:
    """(phase, its runs) for the phases with any of these runs, in order."""
    groups = {name: [planned for planned in runs if planned.phase == name] for name in spec.phases or [None]}
    return [(name, group) for name, group in groups.items() if group]


def runs_of_phase(spec, runs: list, name: str, source: str) -> list:
    """The runs of one phase. Raises UserError if the phase does not exist."""
    if name not in spec.phases:
        there = f"Phases: {', '.join(spec.phases)}" if spec.phases else "The study has no phases"
        raise UserError(f"{source}: there is no phase '{name}'{did_you_mean(name, spec.phases) or '.'} {there}")
    chosen = [planned for planned in runs if planned.phase == name]
    if not chosen:
        raise UserError(f"{source}: KEY=VALUE leaves no runs in phase '{name}'")
    return chosen
