"""A site's file, and the machine that it names."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ditscale.cost.hardware import Machine, device_named_in, named_machine
from ditscale.errors import UserError
from ditscale.section import validate
from ditscale.studies.launchers import DEFAULT, MODULES, launcher as launcher_of
from ditscale.studies.launchers.protocol import SiteSettings
from ditscale.studies.spec.spec import PlannedRun
from ditscale.yamlfile import read_yaml

if TYPE_CHECKING:
    from ditscale.studies.launchers import Site


def load_site(path) -> "Site":
    """Reads a site's file as the section of its ``launcher``; ``sweeps/sites/`` has an example of each. It is not part of a run's
    identity.

    Raises:
        UserError: the message has the key, the value and what would work.
    """
    values = read_yaml(path)
    sections = {name: section for name in MODULES if (section := launcher_of(name).settings)}
    chosen = values.get("launcher", DEFAULT) if isinstance(values, dict) else DEFAULT
    if not isinstance(chosen, str) or chosen not in sections:
        raise UserError(f"{path}: 'launcher' is {chosen!r}: should be {' or '.join(map(repr, sections))}")
    section = sections[chosen]
    for key in values if isinstance(values, dict) else ():
        owners = [name for name, other in sections.items() if key in other.model_fields]
        if owners and key not in section.model_fields:
            raise UserError(f"{path}: {key} is for launcher: {', '.join(owners)}{section.elsewhere}")
    return validate(section, values, str(path))


def site_machine(site: SiteSettings, runs: list[PlannedRun]) -> Machine | None:
    """The GPUs that a study has at a time on a site, for a forecast; None if the site names no GPU of the table in cost/hardware.py.

    Their number is a node's, or those of the runs that may go at once if these are more.
    """
    name = device_named_in(site.gpu_name or "")
    if not name:
        return None
    ranks = max(planned.config.resources.accelerators_per_run for planned in runs)
    at_once = min(getattr(site, "runs_at_once", None) or 1, len(runs))
    return replace(named_machine(name), devices=max(site.gpus_per_node, ranks * at_once))
