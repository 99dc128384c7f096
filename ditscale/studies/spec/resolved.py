"""``ditscale config``: the resolved config of each run as YAML, with the source of each value next to it."""

import yaml

from ditscale.dotted import current_setting, dotted_keys
from ditscale.errors import UserError, did_you_mean
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.provenance import Source
from ditscale.studies.spec.spec import PlannedRun, sources_of
from ditscale.yamlfile import line_numbers


def config_lines(spec: Spec, runs: list[PlannedRun], path: str) -> list[str]:
    """One YAML document per run; read back, each is the run's config."""
    numbers, lines = {_current(place): line for place, line in line_numbers(path).items()}, []
    for planned in runs:
        lines += ["---", f"# {planned.run_id}"] if len(runs) > 1 else [f"# {planned.run_id}"]
        lines += _document(spec, planned, path, numbers)
    return lines


def run_of_id(runs: list[PlannedRun], run_id: str, path: str) -> list[PlannedRun]:
    """The run of this name. Raises UserError if there is none."""
    chosen = [planned for planned in runs if planned.run_id == run_id]
    if not chosen:
        names = [planned.run_id for planned in runs]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more (`ditscale plan {path}`)" if len(names) > 5 else "")
        raise UserError(f"{path}: there is no run '{run_id}'{did_you_mean(run_id, names) or '.'} Runs: {shown}")
    return chosen


def _document(spec: Spec, planned: PlannedRun, path: str, numbers: dict[tuple, int]) -> list[str]:
    sources, rows, opened = sources_of(spec, planned, path), [], ()
    for dotted, value in dotted_keys(planned.config.model_dump(mode="json")).items():
        *sections, key = dotted.split(".")
        for depth, section in enumerate(sections):
            if opened[depth:depth + 1] != (section,):
                rows.append((f"{'  ' * depth}{section}:", ""))
                opened = (*opened[:depth], section)
        opened = tuple(sections)
        rows.append((f"{'  ' * len(sections)}{key}: {_scalar(value)}", describe(sources[dotted], path, numbers)))
    width = max(len(text) for text, words in rows if words and len(text) <= 60)
    return [f"{text:<{width}}  # {words}" if words else text for text, words in rows]


def describe(source: Source | None, path: str, numbers: dict[tuple, int]) -> str:
    """``default``, or the file, line and part of the study that sets the value, or the ``key=value`` that overrides it."""
    if source is None:
        return "default"
    derived = f"from {source.derived_from}, " if source.derived_from else ""
    if source.override:
        return f"{derived}override {source.override!r}"
    part, *inner = source.place
    choice = f" {inner[0]}: {inner[1]}" if part == "bundles" else ""
    return f"{derived}{path}:{numbers[source.place]} {part}{choice}"


def _current(place: tuple) -> tuple:
    """A location in the file with config keys in their current spelling, as in a loaded study."""
    parts: list = []
    for part in place:
        if isinstance(part, str):
            section = parts[-1] if parts and isinstance(parts[-1], str) else ""
            part = current_setting(current_setting(f"{section}.{part}", None)[0][len(section) + 1:], None)[0]
        parts.append(part)
    return tuple(parts)


def _scalar(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True).removesuffix("\n").removesuffix("\n...")
